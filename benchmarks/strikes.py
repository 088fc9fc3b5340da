"""What befalls a run from within: the callback `Strike` does it at a step, if an environment variable names it."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.datamodules.loader import BatchLoader

STRIKE = "PRIMENET_STRIKE"
"""Variable with the name of one of `STRIKES`."""

STEP = 33
"""Before which it strikes: the last checkpoint is some steps old then."""


class Strike(Callback):
    """Strikes once, where it is asked to."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Do it."""
        name = os.environ.get(STRIKE)
        if name and trainer.global_step == STEP and trainer.is_global_zero:
            STRIKES[name](Path(str(trainer.default_root_dir)))


class LoaderWithWorker(BatchLoader):
    """The package's loader, but with a process of its own that reads ahead."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.num_workers, self.prefetch_factor = 1, 2

    def __iter__(self) -> Any:
        """Begin to read with the first batch: before that Lightning has not told the sampler the epoch."""
        yield from super().__iter__()


class DigitsByWorker(DigitsDataModule):
    """The digits, read by a process beside the training."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Give the package's own loader a worker."""
        loader: Any = super().train_dataloader()
        return LoaderWithWorker(loader.dataset, loader.sampler, loader.batches_done)


def _refuse(*args: Any, **options: Any) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def _break_disk(run: Path) -> None:
    setattr(os, "fsync", _refuse)  # noqa: B010  # mypy knows that functions are not replaced


def _fill_disk(run: Path) -> None:
    with (run.parent / "ballast").open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _limit_files(run: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))


def _limit_memory(run: Path) -> None:
    """Let the address space grow no more; what the process needs next it cannot have."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), resource.RLIM_INFINITY))
    hoard: list[bytearray] = []
    for size in (2**22, 2**18):  # what the process has, and does not use
        try:
            while True:
                hoard.append(bytearray(size))
        except MemoryError:
            continue
    _limit_memory.hoard = hoard  # type: ignore[attr-defined]  # or it would be free again


def _set_clock_back(run: Path) -> None:
    clock, nanoseconds = time.time, time.time_ns
    setattr(time, "time", lambda: clock() - 86400)  # noqa: B010
    setattr(time, "time_ns", lambda: nanoseconds() - 86400 * 10**9)  # noqa: B010


def _set_clock_forward(run: Path) -> None:
    clock = time.time
    setattr(time, "time", lambda: clock() + 30 * 86400)  # noqa: B010


def _make_read_only(run: Path) -> None:
    """Put a mount that is read-only over the checkpoints."""
    folder = str(run / "checkpoints")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def _kill_children(run: Path) -> None:
    """Kill the processes that this one has started: workers, W&B's service."""
    children = Path("/proc/self/task").glob("*/children")
    for number in {int(word) for file in children for word in file.read_text().split()}:
        os.kill(number, signal.SIGKILL)


STRIKES: dict[str, Callable[[Path], object]] = {
    "break_disk": _break_disk,
    "fill_disk": _fill_disk,
    "limit_files": _limit_files,
    "limit_memory": _limit_memory,
    "set_clock_back": _set_clock_back,
    "set_clock_forward": _set_clock_forward,
    "make_read_only": _make_read_only,
    "kill_children": _kill_children,
    "remove_run": shutil.rmtree,
    "remove_checkpoints": lambda run: shutil.rmtree(run / "checkpoints"),
}
