"""Runs of ``primenet fit`` in a session of their own: begun, watched, gone on with, and ended with all their processes.

What a run prints goes into a file beside its folder. A run tells its steps through the callback `kills.Progress`.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kills import PROGRESS, steps_done

PATIENCE = 420.0
"""Seconds to wait for a run before it counts as hung: the machine may be busy."""

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--figures=false")
"""Options of a run that draws nothing."""


class Session:
    """A run's folder, and the processes that train it.

    Args:
        folder: Of the run; what it prints and its steps go into files beside it.
        options: Of ``primenet fit``.
        environment: More variables of the processes.
        prepare: Called in the first process before it becomes the command, for limits.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str],
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.folder = folder
        self.options = list(options)
        self.environment = dict(environment or {})
        self.prepare = prepare
        self.log = folder.with_suffix(".log")
        self.progress = folder.with_suffix(".progress")
        self.last = folder / "checkpoints/last.ckpt"

    def begin(self) -> None:
        """Begin the run, or go on with one that is there."""
        command = [sys.executable, "-m", "primenet_lightning.commands.main", "fit"]
        if (self.folder / "config.yaml").exists():
            command += [f"--resume={self.folder}"]
        else:
            command += [*QUIET, *self.options, "--trainer.callbacks+=kills.Progress", f"--run={self.folder}"]
        self.progress.unlink(missing_ok=True)
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        environment |= {PROGRESS: str(self.progress), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        environment |= self.environment
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, start_new_session=True, preexec_fn=self.prepare
            )

    @property
    def steps(self) -> int:
        """Steps that are done; 0 before the first of this process."""
        return steps_done(self.progress)

    @property
    def words(self) -> str:
        """All that was printed, in one line: the command wraps its lines."""
        return " ".join(self.log.read_text(errors="replace").split()) if self.log.exists() else ""

    @property
    def sentences(self) -> list[str]:
        """The errors that the command told, each once; those of a library that ends the process by itself, too.

        Where memory is short, Python says ``MemoryError:`` again and again as it ends, after the sentence.
        """
        told = re.findall(r"primenet: error: (.*?)(?= primenet: error: | MemoryError: |$)", self.words)
        told += re.findall(r"OpenBLAS error: .*?giving up\.", self.words)
        return list(dict.fromkeys(told))

    def wait_for_step(self, step: int) -> None:
        """Wait until so many steps are done, or the run has ended.

        Args:
            step: Of this process, or of those before.

        Raises:
            TimeoutError: If it takes too long.
        """
        deadline = time.monotonic() + PATIENCE
        while self.steps < step and self.process.poll() is None:
            if time.monotonic() > deadline:
                self.end()
                raise TimeoutError(f"no step {step} after {PATIENCE} s: {self.words[-1000:]}")
            time.sleep(0.02)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end of the run's first process.

        Args:
            seconds: At most.

        Returns:
            Its status.

        Raises:
            TimeoutError: If it takes longer; the run is killed.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise TimeoutError(f"no end after {seconds} s: {self.words[-1000:]}") from None

    def members(self) -> list[int]:
        """List the processes of the session that run the command; a zombie counts as none."""
        numbers: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                words = (entry / "cmdline").read_bytes()
                if int(session) == self.process.pid and state != "Z" and b"primenet" in words and b"fit" in words:
                    numbers.append(int(entry.name))
        return sorted(numbers)

    def signal(self, numbers: Sequence[int], what: int) -> None:
        """Send a signal to processes, as far as they are there."""
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, what)

    def seconds_to_end(self) -> float:
        """Wait until no process is left, and say how long that took."""
        begun = time.monotonic()
        while self.members():
            if time.monotonic() > begun + PATIENCE:
                self.end()
                break
            self.process.poll()  # or it would stay as a zombie
            time.sleep(0.1)
        self.process.wait()
        return time.monotonic() - begun

    def end(self) -> None:
        """Kill what is left of the session."""
        self.signal(self.members(), signal.SIGKILL)
        self.process.wait()
