"""Kill a real run again and again, at random moments, and see whether it ends as an unbroken one.

    python benchmarks/kills.py [--kills N] [--every STEPS] [--seed N] [OPTION ...]
    python benchmarks/kills.py --modes all [--kills 200] [--every STEPS] [--seed N]

Each kill is ``kill -9`` to ``primenet fit``; the next process resumes the run with ``primenet fit --resume``, and is
killed in its turn. A run that gets through is compared with one that was never killed, and another one is begun, until
all kills are done. After each kill ``last.ckpt`` must load and be at most ``--every`` steps old; of each run that ends,
the last and the best checkpoint must be equal to the unbroken run's to the last bit, and so must ``metrics.csv``, row
by row, and the errors in ``summary.json``. What follows the options is handed to ``primenet fit``. With ``--modes`` the
kills are shared out to one process, a deep stack, a cut backbone, a baseline, two ranks and a pipeline, or to some of
them (``--modes deep,cut``). The last line is one JSON object; the exit status is 1 if anything was wrong.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

PROGRESS = "PRIMENET_KILLS_PROGRESS"
COMPARED = ("test_error", "validation_error", "routing", "epochs", "skipped_steps")

KILLS_A_RUN = 10
"""About so many, where there are more: kills that come faster than checkpoints would all hit the same steps."""


class Progress(Callback):
    """Tells the process that is going to kill this one how many steps are done, through eight bytes of a file."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file."""
        self.file = os.open(os.environ[PROGRESS], os.O_WRONLY | os.O_CREAT)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the number, on the first of several processes."""
        if trainer.is_global_zero:
            os.pwrite(self.file, struct.pack("q", trainer.global_step), 0)


def run(args: Sequence[str], progress: Path) -> None:
    """Be the process that is killed: ``primenet`` with its output in a file beside the progress."""
    log = os.open(progress.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ[PROGRESS] = str(progress)
    torch.set_num_threads(1)
    from primenet_lightning.commands.main import main

    sys.exit(main(list(args)))


def start(args: Sequence[str], progress: Path) -> Any:
    """Start `run` in a process of its own, forked from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["primenet_lightning.commands.fit"])
    process = context.Process(target=run, args=(list(args), progress))
    process.start()
    return process


def steps_done(progress: Path) -> int:
    """Steps that the process reported; 0 before the first."""
    content = progress.read_bytes() if progress.exists() else b""
    return int(struct.unpack("q", content)[0]) if len(content) == 8 else 0


def wait_for_step(process: Any, progress: Path, seconds: float = 120) -> None:
    """Wait until the process trains, or has ended."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and not steps_done(progress):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no step after {seconds} s; see {progress.with_suffix('.log')}")
        time.sleep(0.005)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ by as much as a bit; clocks and the paths of the run are not compared."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [f"{where}: {one!r:.40} and {other!r:.40}"]
    faults: list[str] = []
    for key in one.keys() | other.keys():
        if key == "Timer" or "BestCheckpoint" in str(key):
            continue
        if key in one and key in other:
            faults += differences(one[key], other[key], f"{where}/{key}")
        else:
            faults.append(f"{where}/{key}")
    return faults


def rows(folder: Path) -> list[dict[str, str]]:
    """All of ``metrics.csv`` but for a clock."""
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        row.pop("tsne/seconds", None)
    return table


def compare(run_folder: Path, unbroken: Path) -> list[str]:
    """Where a run's results differ from the unbroken run's."""
    faults: list[str] = []
    # checkpoints
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(run_folder / "checkpoints" / name, weights_only=True)
        faults += differences(checkpoint, torch.load(unbroken / "checkpoints" / name, weights_only=True), name)
    # curves
    table, expected_table = rows(run_folder), rows(unbroken)
    if len(table) != len(expected_table):
        faults.append(f"metrics.csv has {len(table)} rows and {len(expected_table)}")
    for place, (row, expected_row) in enumerate(zip(table, expected_table, strict=False)):
        if row != expected_row:
            faults.append(f"metrics.csv, row {place}")
    # results
    summary = json.loads((run_folder / "summary.json").read_text())
    expected_summary = json.loads((unbroken / "summary.json").read_text())
    for key in COMPARED:
        if summary.get(key) != expected_summary.get(key):  # not every network is routed
            faults.append(f"summary.json: {key}")
    return faults


class Killer:
    """Kills runs at random moments, and writes down what it does.

    Args:
        kills: How many.
        moments: The random moments.
        seconds: That an unbroken run trains.
        progress: File of the steps done.

    Attributes:
        killed_at: Steps done at each kill; 0: before the first of that process.
        oldest: The oldest ``last.ckpt`` after a kill, in steps.
    """

    def __init__(self, kills: int, moments: random.Random, seconds: float, progress: Path) -> None:
        self.kills = kills
        self.moments = moments
        self.seconds = seconds
        self.progress = progress
        self.killed_at: list[int] = []
        self.oldest = 0

    @property
    def done(self) -> bool:
        """Whether all kills are done."""
        return len(self.killed_at) >= self.kills

    def break_run(self, folder: Path, arguments: Sequence[str]) -> str:
        """Train, kill and resume until the run gets through.

        Args:
            folder: Of the run.
            arguments: That begin it.

        Returns:
            What is wrong with how it ended; empty if nothing.
        """
        while True:
            self.progress.unlink(missing_ok=True)
            resumes = (folder / "config.yaml").exists()
            process = start(["fit", f"--resume={folder}"] if resumes else arguments, self.progress)
            self.wait(process)
            if not process.is_alive():
                break
            process.kill()
            process.join()
            if (folder / "summary.json").exists():
                return ""  # it had done everything
            self.note(folder / "checkpoints/last.ckpt")
        if process.exitcode != 0 and not (folder / "summary.json").exists():
            return f"{folder.name} ended with {process.exitcode}"
        return ""

    def wait(self, process: Any) -> None:
        """Wait for a random moment in a process's life; for its end if all kills are done."""
        if self.done:
            wait_for_step(process, self.progress)
            process.join()
            return
        if self.moments.random() < 0.75:
            wait_for_step(process, self.progress)
        else:  # before its first step, or not long after: while the run folder is made, W&B begins, data are read
            process.join(self.moments.uniform(0, 4))
        if steps_done(self.progress):
            process.join(self.moments.uniform(0, 2 * self.seconds / max(min(self.kills, KILLS_A_RUN), 1)))

    def note(self, last: Path) -> None:
        """Write a kill down, and load the checkpoint that it left."""
        steps, saved = steps_done(self.progress), 0
        if steps or last.exists():
            saved = torch.load(last, weights_only=True)["global_step"]
        self.killed_at.append(steps)
        self.oldest = max(self.oldest, steps - saved)
        print(f"kill {len(self.killed_at)}: after step {steps}, last.ckpt of step {saved}", flush=True)


def experiment(folder: Path, kills: int, every: int, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Train once unbroken, then kill and resume until all kills are done and the last run has ended.

    Args:
        folder: Where everything goes.
        kills: How many.
        every: Steps between checkpoints.
        seed: Of the random moments.
        options: Of ``primenet fit``.

    Returns:
        ``kills``, ``runs`` that were compared, ``oldest`` checkpoint after a kill, in steps, ``killed_at``, the
        steps (0: before the first of that process), and ``wrong``, what was not as it should be.
    """
    common = [*options, f"--every_n_train_steps={every}", "--trainer.callbacks+=kills.Progress"]
    # unbroken
    unbroken, progress = folder / "unbroken", folder / "progress"
    process = start(["fit", *common, f"--run={unbroken}"], progress)
    wait_for_step(process, progress)
    begun = time.monotonic()
    process.join()
    seconds = time.monotonic() - begun
    wrong: list[str] = []
    if process.exitcode != 0:
        wrong.append(f"the unbroken run ended with {process.exitcode}")
    # broken, one run after the other
    killer, runs = Killer(kills, random.Random(seed), seconds, progress), 0
    while not wrong and (not killer.done or not runs):
        broken = folder / f"broken{runs}"
        fault = killer.break_run(broken, ["fit", *common, f"--run={broken}"])
        if fault:
            wrong.append(fault)
            break
        for difference in compare(broken, unbroken):
            wrong.append(f"{broken.name}: {difference}")
        runs += 1
    if killer.oldest > every:
        wrong.append(f"a checkpoint was {killer.oldest} steps old")
    return {
        "kills": len(killer.killed_at),
        "runs": runs,
        "oldest": killer.oldest,
        "killed_at": killer.killed_at,
        "wrong": wrong,
    }


def main() -> int:
    """Do it in a temporary folder and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--every", type=int, default=10, help="Steps between checkpoints.")
    parser.add_argument("--seed", type=int, default=0, help="Of the random moments.")
    parser.add_argument("--modes", help="all, or names with commas between them, see kill_modes.py.")
    arguments, options = parser.parse_known_args()
    os.environ.setdefault("WANDB_MODE", "offline")
    result = _result(arguments, options)
    for line in result["wrong"]:
        print(f"wrong: {line}", file=sys.stderr)
    print(json.dumps(result))
    return int(bool(result["wrong"]))


def _result(arguments: argparse.Namespace, options: Sequence[str]) -> dict[str, Any]:
    if arguments.modes is not None:
        import kill_modes  # which imports this file

        return kill_modes.kill_modes(
            arguments.kills, kill_modes.modes_of(arguments.modes), arguments.every, arguments.seed
        )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        result = experiment(Path(folder), arguments.kills, arguments.every, arguments.seed, options)
        if result["wrong"]:
            print((Path(folder) / "progress.log").read_text()[-3000:], file=sys.stderr)
    return result


if __name__ == "__main__":
    sys.exit(main())
