"""Run folders: where a run lives, what it says of itself at the end."""

import json
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.table import Table

PAPER = {
    "mnist": {"test_error": 0.58},
    "cifar10": {"test_error": 6.21},
    "svhn": {"test_error": 1.71},
}
"""Test errors in %, as claimed in table 2 of the paper."""

PAPER_COST = {"parameters": 410_000, "multiply_adds": 2_700_000, "epochs": 150}
"""The row of PrimeNet in table 3; the paper calls the second number FLOPs."""

PACKAGES = (
    "primenet-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
    "wandb",
)


class RunFolder:
    """A folder that holds all of a run, and nothing else.

    ``config.yaml``, ``metrics.csv``, ``checkpoints/``, ``figures/*.png``, ``summary.json``.

    Args:
        path: The folder.

    Example:
        >>> RunFolder("runs/mine").checkpoints.as_posix()
        'runs/mine/checkpoints'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def new(cls, path: str | Path | None, label: str, parent: str | Path = "runs") -> "RunFolder":
        """Choose the folder of a new run; it is not made yet.

        Args:
            path: The folder that the user asked for; None makes up a name below ``parent``.
            label: What such a name begins with; the time follows.
            parent: Where runs lie.

        Returns:
            The run folder.

        Raises:
            FileExistsError: If the folder exists and is not empty.
        """
        if path is None:
            stamp = Path(parent) / f"{label}-{datetime.now():%Y%m%d-%H%M%S}"
            path, count = stamp, 1
            while path.exists():  # two runs begun in the same second
                count += 1
                path = stamp.with_name(f"{stamp.name}-{count}")
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(
                f"run={path} exists already and is not overwritten: give another name, or go on with that "
                f"run with --resume {path}"
            )
        return cls(path)

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """Open the folder of a run that was begun.

        Args:
            path: The folder.

        Returns:
            The run folder.

        Raises:
            FileNotFoundError: If there is no ``config.yaml`` in it.
        """
        run = cls(path)
        if not run.config.is_file():
            raise FileNotFoundError(
                f"{path} is no run folder: it has no config.yaml; give the folder that `primenet fit` printed"
            )
        return run

    @property
    def config(self) -> Path:
        """The options of the run; ``primenet fit --config`` repeats it."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt``, ``last.ckpt`` and, after Ctrl-C, ``interrupted.ckpt``."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of least validation error.

        Raises:
            FileNotFoundError: If no epoch was finished.
        """
        return self._checkpoint("best")

    @property
    def newest(self) -> Path:
        """The checkpoint to resume from: the last epoch's, or the interruption's if that is newer.

        Raises:
            FileNotFoundError: If there is none.
        """
        paths = [self.checkpoints / "interrupted.ckpt", self.checkpoints / "last.ckpt"]
        found = [path for path in paths if path.is_file()]
        if not found:
            return self._checkpoint("last")
        return max(found, key=lambda path: path.stat().st_mtime_ns)

    def _checkpoint(self, name: str) -> Path:
        path = self.checkpoints / f"{name}.ckpt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: the run stopped before its first epoch ended, or saved no "
                "checkpoints; start it anew"
            )
        return path

    @property
    def wandb_id(self) -> str | None:
        """The run's id in W&B, found in the folder that W&B itself keeps; None where it was not used."""
        for path in self.path.glob("wandb/*run-*/run-*.wandb"):
            return path.stem.removeprefix("run-")
        return None

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write ``summary.json``.

        Args:
            summary: Its content.

        Returns:
            The path of the file.
        """
        path = self.path / "summary.json"
        path.write_text(json.dumps(summary, indent=2) + "\n")
        return path


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``, of least validation error; it goes on with a run whose folder was moved.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="best", monitor="val/error", mode="min", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was best so far, if that checkpoint is in this folder."""
        best = self.best
        if state_dict["best_model_path"] and best.is_file():
            score = state_dict["best_model_score"]
            self.best_model_score = self.current_score = self.kth_value = score
            self.best_model_path = self.kth_best_model_path = str(best)
            self.best_k_models = {str(best): score}

    @property
    def best(self) -> Path:
        """Where the checkpoint is, once there is one."""
        assert self.dirpath is not None
        return Path(self.dirpath) / "best.ckpt"


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``, at the end of every epoch.

    ``ModelCheckpoint(save_last=True)`` would only write it in epochs whose validation error is the best so
    far.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, filename="last", monitor=None, save_on_train_epoch_end=True, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over nothing: there is one file, and its place is known."""


class InterruptCheckpoint(Callback):
    """Stop at Ctrl-C, after the batch that is under way; save a checkpoint, and say how to go on.

    In the middle of a batch some capsules may have been updated and others not. After the last batch of an
    epoch the epoch is finished, validation and ``last.ckpt`` included, and no other checkpoint is needed. A
    second Ctrl-C stops at once, without a checkpoint.

    Args:
        run: The run's folder.
        save: Whether there are checkpoints in this run.
    """

    def __init__(self, run: RunFolder, save: bool = True) -> None:
        self.run = run
        self.save = save
        self.asked = False

    @property
    def path(self) -> Path:
        """Where the checkpoint goes."""
        return self.run.checkpoints / "interrupted.ckpt"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch Ctrl-C; Lightning ignores it from the first on and never gives it back."""
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after this batch; Ctrl-C again stops at once.", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if asked to."""
        # gradients that wait for their step are in no checkpoint, so the window is finished first
        if self.asked and not trainer.is_last_batch and pl_module.window_ends(batch_idx):  # type: ignore[operator]
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if asked to since the last batch of the epoch before."""
        if self.asked:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the checkpoint of an earlier interruption: this epoch's is newer."""
        if trainer.is_global_zero:
            self.path.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, if it was the user and a batch has just been done."""
        if not isinstance(exception, KeyboardInterrupt) or trainer.state.fn != "fit":
            return
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if self.save and 0 < done.processed == done.ready < trainer.num_training_batches:
            trainer.save_checkpoint(self.path, weights_only=False)
        if trainer.is_global_zero:
            print(f"Stopped after {trainer.global_step} steps; {self._advice()}", file=sys.stderr)

    def _advice(self) -> str:
        try:
            _ = self.run.newest
        except FileNotFoundError:
            return f"there is no checkpoint yet, so remove {self.run.path} and start anew"
        return f"go on with: primenet fit --resume {self.run.path}"


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of those whose versions may change a number."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None if it runs from no checkout."""
    here = Path(__file__).resolve()
    git = ["git", "-C", str(here.parent)]
    try:
        # an installed copy may lie in somebody else's repository, which does not track it
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def peak_memory_bytes() -> int | None:
    """Most memory held so far: of the GPU if one was used, else of this process; None if nobody can tell."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def result_table(summary: Mapping[str, Any]) -> Table:
    """Say in a few lines what came out, the paper's claim beside it.

    Args:
        summary: As in ``summary.json``.

    Returns:
        A table for rich.
    """
    claim = summary.get("paper")
    table = Table(title=f"PrimeNet on {summary['dataset']}, seed {summary['seed']}", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    if claim:
        table.add_column("paper's claim", justify="right")
    for name, key, claimed, form in (
        ("test error (%)", "test_error", "test_error", ".2f"),
        ("validation error (%)", "validation_error", "", ".2f"),
        ("parameters", "parameters", "parameters", ","),
        ("multiply-adds, inference", "multiply_adds_inference", "multiply_adds", ","),
        ("epochs", "epochs", "epochs", ""),
        ("training time (s)", "seconds", "", ".1f"),
    ):
        beside = [format(claim[claimed], form) if claimed else ""] if claim else []
        table.add_row(name, format(summary[key], form), *beside)
    table.caption = f"routed by {summary['routing_mode']}"
    table.caption_justify = "left"
    return table
