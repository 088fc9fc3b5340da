"""Run folders: where a run lives."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


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
        # a crash may have come before the very first file was whole
        if path.exists() and (not path.is_dir() or any(inside.suffix != ".part" for inside in path.iterdir())):
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
        """Folder of ``best.ckpt`` and ``last.ckpt``."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of least validation error.

        Raises:
            FileNotFoundError: If no epoch was finished.
        """
        path = self.checkpoints / "best.ckpt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: the run stopped before its first validation ended, or saved no "
                f"checkpoints; go on with it (--resume {self.path}), or start it anew"
            )
        return path

    @property
    def last(self) -> Path | None:
        """The checkpoint to resume from; None if the run stopped before its first batch, or saved none."""
        path = self.checkpoints / "last.ckpt"
        return path if path.is_file() else None

    @property
    def is_finished(self) -> bool:
        """Whether the run has been trained, tested and summed up."""
        return (self.path / "summary.json").is_file()

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
        return write_whole(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file beside its target and rename it, so that a crash leaves the old file or the new one.

    Args:
        path: The file.
        content: Of the file; a string is written as UTF-8.

    Returns:
        The path.
    """
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    return beside.replace(path)
