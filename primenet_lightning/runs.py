"""Run folders: where a run lives, what it says of itself at the end."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

PAPER = {
    "mnist": {"test_error": 0.58},
    "cifar10": {"test_error": 6.21},
    "svhn": {"test_error": 1.71},
}
"""Test errors in %, as claimed in table 2 of the paper."""

PAPER_COST = {"parameters": 410_000, "multiply_adds": 2_700_000, "epochs": 150}
"""The row of PrimeNet in table 3; the paper calls the second number FLOPs."""

PACKAGES = ("primenet-lightning", "torch", "torchvision", "lightning", "torchmetrics", "numpy", "scikit-learn", "wandb")


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
                f"run={path} exists already and is not overwritten: give another name, or go on with that run with "
                f"--resume {path}"
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
            raise FileNotFoundError(f"{path} is no run folder: it has no config.yaml; give the folder that `primenet fit` printed")
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
        interrupted = self.checkpoints / "interrupted.ckpt"
        last = self.checkpoints / "last.ckpt"
        if interrupted.is_file() and (not last.is_file() or interrupted.stat().st_mtime >= last.stat().st_mtime):
            return interrupted
        return self._checkpoint("last")

    def _checkpoint(self, name: str) -> Path:
        path = self.checkpoints / f"{name}.ckpt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: the run stopped before its first epoch ended; start it anew")
        return path

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


class InterruptCheckpoint(Callback):
    """Save a checkpoint when the user stops a run with Ctrl-C, and say how to go on.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, if it was the user."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            path = self.run.checkpoints / "interrupted.ckpt"
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                print(
                    f"Stopped after {trainer.global_step} steps; go on with: primenet fit --resume {self.run.path}",
                    file=sys.stderr,
                )


def versions() -> dict[str, str]:
    """Versions of Python, of this package, and of those whose versions may change a number."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None if it runs from no checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "log", "-1", "--format=%H", "--", str(here)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_bytes() -> int | None:
    """Most memory held so far: of the GPU if one was used, else of this process; None where nobody can tell."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def result_table(summary: Mapping[str, Any], run: RunFolder) -> Table:
    """Say in a few lines what came out, the paper's claim beside it.

    Args:
        summary: As in ``summary.json``.
        run: Where it lies.

    Returns:
        A table for rich.
    """
    claim = summary.get("paper")
    table = Table(title=f"PrimeNet on {summary['dataset']}, seed {summary['seed']}", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    rows = [
        ("test error (%)", f"{summary['test_error']:.2f}", f"{claim['test_error']:.2f}" if claim else ""),
        ("validation error (%)", f"{summary['validation_error']:.2f}", ""),
        ("parameters", f"{summary['parameters']:,}", f"{claim['parameters']:,}" if claim else ""),
        ("multiply-adds, inference", f"{summary['multiply_adds_inference']:,}", f"{claim['multiply_adds']:,}" if claim else ""),
        ("epochs", f"{summary['epochs']}", f"{claim['epochs']}" if claim else ""),
        ("training time (s)", f"{summary['seconds']:.1f}", ""),
    ]
    if claim:
        table.add_column("paper's claim", justify="right")
    for name, measured, claimed in rows:
        table.add_row(name, measured, *([claimed] if claim else []))
    table.caption = f"routed by {summary['routing_mode']}; run folder: {run.path}"
    table.caption_justify = "left"
    return table
