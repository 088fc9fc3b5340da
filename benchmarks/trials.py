"""Runs for faults to strike, and what came of each: `Trials` makes them, and judges them after their end."""

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kills import compare
from pipeline_kills import in_pipeline
from sessions import Session
from strikes import STRIKE

from primenet_lightning.training.checkpoint_files import read_checkpoint

EVERY = 10
"""Steps between checkpoints."""

COMMON = [
    "--data=digits",
    "--trainer.max_epochs=4",
    "--trainer.limit_train_batches=20",
    f"--every_n_train_steps={EVERY}",
    "--trainer.callbacks+=strikes.Strike",
]
DEEP = [*COMMON, "--model.depth=4", "--model.pool_every=9", "--model.keyed_random=true"]
KINDS = {
    "single": (COMMON, COMMON),
    "ranks": ([*COMMON, "--trainer.strategy=ddp", "--trainer.devices=2"],) * 2,
    "pipeline": ([*DEEP, *in_pipeline(2)], DEEP),
    "worker": (["--data=strikes.DigitsByWorker", *COMMON[1:]],) * 2,
}
"""By name: options of a run, and of the run to which nothing happens."""

TOLD = (
    r"W&B cannot begin the run \(.*?wandb sync`",
    r"[\w/.& ]+ failed \([^)]*\)[^;]*; training goes on without",
    r"W&B's server has not taken all of the run in time .*?wandb sync",
    r"\S+ is gone, and is written anew",
)
"""What is told beside errors."""


class Outcome(NamedTuple):
    """What came of a fault.

    Attributes:
        fault: Its name.
        seen: By the user.
        lost: Of the run.
        wrong: What should not be.
    """

    fault: str
    seen: str
    lost: str
    wrong: Sequence[str]


class Trials:
    """Runs for faults to strike.

    Args:
        folder: An empty one.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.moments = random.Random(seed)
        self._unbroken: dict[str, Path] = {}
        self._count = 0

    def session(self, kind: str = "single", strike: str = "", parent: Path | None = None) -> Session:
        """Make a run that has not begun.

        Args:
            kind: One of `KINDS`.
            strike: What befalls it from within.
            parent: Where its folder will be.

        Returns:
            The run.
        """
        self._count += 1
        session = Session((parent or self.folder) / f"run{self._count}", KINDS[kind][0], {STRIKE: strike})
        session.log = self.folder / f"run{self._count}.log"
        session.progress = self.folder / f"run{self._count}.progress"
        return session

    def unbroken(self, kind: str) -> Path:
        """Train a run to which nothing happens, once."""
        if kind not in self._unbroken:
            session = Session(self.folder / f"unbroken_{kind}", KINDS[kind][1])
            session.begin()
            if session.wait() != 0:
                raise RuntimeError(f"the undisturbed run failed: {session.words[-1000:]}")
            self._unbroken[kind] = session.folder
        return self._unbroken[kind]

    def judge(self, session: Session, kind: str, status: int, without: str = " ") -> tuple[str, str, list[str]]:
        """Look at what a fault left, go on where the run had ended, and compare.

        Args:
            session: The run, after its end.
            kind: One of `KINDS`.
            status: Of its end.
            without: Differences that begin so are what the fault costs.

        Returns:
            What was seen, what was lost, and what is wrong.
        """
        seen, wrong = seen_of(session), []
        if "Traceback" in session.words:
            wrong.append(f"a traceback: {session.words[-700:]}")
        if status != 0 and not session.sentences:
            wrong.append(f"status {status} without a sentence: {session.words[-300:]}")
        wrong += _damages(session.folder)
        lost = "nothing"
        if status != 0:
            if session.last.is_file():
                lost = f"nothing up to step {read_checkpoint(session.last)['global_step']} of {session.steps}"
            session.environment, session.prepare = {}, None
            session.begin()
            again = session.wait()
            if again != 0:
                return seen, "the run", [*wrong, f"not gone on with ({again}): {session.words[-500:]}"]
        for difference in compare(session.folder, self.unbroken(kind)):
            if difference.startswith(without):
                lost = "lines of metrics.csv"
            else:
                wrong.append(difference)
        return seen, lost, wrong


def seen_of(session: Session) -> str:
    """What the run told, with its folder called RUN."""
    told = session.sentences
    for pattern in TOLD:
        told += re.findall(pattern, session.words)
    words = "; ".join(dict.fromkeys(told)).replace(str(session.folder), "RUN")
    return words.replace(str(session.folder.parent), "") or "nothing"


def _damages(folder: Path) -> list[str]:
    """Read every checkpoint, and look for drafts."""
    wrong = [f"a draft is left: {path.name}" for path in folder.rglob("*.part")]
    for path in folder.rglob("*.ckpt"):
        try:
            read_checkpoint(path)
        except (OSError, ValueError) as error:
            wrong.append(f"{path.name}: {error}")
    return wrong
