"""Run folders: where a run lives."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from primenet_lightning.checksums import (
    FIRST_LINE,
    GrowingFile,
    mention_change,
    read_json,
    read_text,
    warn_of_none,
    without_first_line,
    write_json,
)

LOCK = ".lock"
"""Name of the file in a run folder that the process which trains the run has locked."""


class RunFolder(os.PathLike[str]):
    """A folder that holds all of a run, and nothing else; it knows each of its files.

    ``config.yaml``, ``metrics.csv``, ``checkpoints/``, ``figures/``, ``summary.json``, ``report.html``, ``card.md``
    where one was asked for, and ``probe.json`` where its features were probed. Wherever a path is wanted, it stands for
    its own.

    Args:
        path: The folder, or another `RunFolder`.

    Example:
        >>> run = RunFolder("runs/mine")
        >>> run.checkpoints.as_posix(), run.figure("losses").as_posix()
        ('runs/mine/checkpoints', 'runs/mine/figures/losses.png')
        >>> Path(run) == run.path == RunFolder(run).path
        True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

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
            path = _unused(Path(parent), label)
        run = cls(path)
        if not run.is_free:
            raise FileExistsError(
                f"run={run.path} exists already and is not overwritten: give another name, or go on with that "
                f"run with --resume {run.path}"
            )
        return run

    @property
    def is_free(self) -> bool:
        """Whether nothing is at the run's place."""
        if not self.path.exists():
            return True
        if not self.path.is_dir():
            return False
        # a crash may have come before the very first file was whole
        return all(file.suffix == ".part" or file.name == LOCK for file in self.path.iterdir())

    @classmethod
    def existing(cls, path: str | os.PathLike[str]) -> "RunFolder":
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
                f"{run.path} is no run folder: it has no config.yaml; give the folder that `primenet fit` printed"
            )
        return run

    def try_writing(self) -> None:
        """Write something into the folder, and take it away again, the folder too where it was not there.

        Raises:
            OSError: If that is not possible.
        """
        missing = self._missing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise OSError(
                f"run={self.path} cannot be written ({error.strerror}); give a folder in which you may write"
            ) from error
        finally:
            _remove_empty(missing)

    def _missing(self) -> list[Path]:
        """The folder and those above it that are not there, the innermost first."""
        return [folder for folder in (self.path, *self.path.parents) if not folder.exists()]

    def remove(self) -> None:
        """Remove the folder with all that is in it, and the one that it lies in if that is empty then."""
        shutil.rmtree(self.path, ignore_errors=True)
        _remove_empty([self.path.parent])

    # -- its files -----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        """The options of the run; ``primenet fit --config`` repeats it."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """All that was logged, by step."""
        return self.path / "metrics.csv"

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
    def figures(self) -> Path:
        """Folder of the pictures, and of the numbers of some of them."""
        return self.path / "figures"

    def figure(self, name: str) -> Path:
        """Tell where a picture is.

        Args:
            name: Of the picture, without suffix.

        Returns:
            The PNG file, which need not be there.
        """
        return self.figures / f"{name}.png"

    @property
    def summary(self) -> Path:
        """What came out; the file is there once the run has been trained, tested and summed up."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The page that shows all of it."""
        return self.path / "report.html"

    @property
    def card(self) -> Path:
        """Its model card, where ``primenet card`` has written one."""
        return self.path / "card.md"

    def probe(self, *marks: str) -> Path:
        """Tell where the result of a probe is.

        Args:
            *marks: What tells it from the run's other probes: its layer, or that it was fine-tuned.

        Returns:
            The JSON file, which need not be there; the picture is the `figure` of the same name.

        Example:
            >>> [RunFolder("mine").probe(*marks).name for marks in ((), ("routed", "finetune"))]
            ['probe.json', 'probe-routed-finetune.json']
        """
        return self.path / f"{'-'.join(['probe', *marks])}.json"

    @property
    def wandb(self) -> Path:
        """Folder of W&B's own files."""
        return self.path / "wandb"

    # -- what they say -------------------------------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Whether the run has been trained, tested and summed up."""
        return self.summary.is_file()

    @property
    def wandb_id(self) -> str | None:
        """The run's id in W&B, found in the folder that W&B itself keeps; None where it was not used."""
        for path in self.wandb.glob("*run-*/run-*.wandb"):
            return path.stem.removeprefix("run-")
        return None

    def read_config(self) -> str:
        """Read ``config.yaml``; there is a warning if somebody has changed it.

        Returns:
            YAML, without its check sum.

        Raises:
            ValueError: If it is no text.
        """
        text = read_text(self.config, "mend it, or begin a new run")
        if not text.startswith(FIRST_LINE):
            warn_of_none(self.config)
        mention_change(self.config, text)
        return without_first_line(text)

    def check_metrics(self) -> None:
        """Compare ``metrics.csv``, where there is one, with its check sum.

        Raises:
            ValueError: If it is not as it was written.
        """
        if self.metrics.is_file():
            GrowingFile(self.metrics).check("delete it, and what was logged so far is lost")

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write ``summary.json``.

        Args:
            summary: Its content.

        Returns:
            The path of the file.
        """
        return write_json(self.summary, summary, indent=2)

    def read_summary(self) -> dict[str, Any]:
        """Read ``summary.json``.

        Returns:
            Its content; nothing where the run has not finished.

        Raises:
            ValueError: If it is not as it was written.
        """
        if not self.is_finished:
            return {}
        return read_json(self.summary, f"sum the run up anew with --resume {self.path} after deleting it")


def checkpoint_in(path: str | os.PathLike[str]) -> Path:
    """Find a checkpoint.

    Args:
        path: A checkpoint file, or the folder of a run, whose best one is taken.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such file or run.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        return RunFolder.existing(file).best
    if not file.is_file():
        raise FileNotFoundError(f"ckpt={path} does not exist; give a run folder or a checkpoint file")
    return file


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, as far as they are there and empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _unused(parent: Path, label: str) -> Path:
    """A name made of the time, which no folder has."""
    stamp = f"{label}-{datetime.now():%Y%m%d-%H%M%S}"
    path = parent / stamp
    count = 1
    while path.exists():  # two runs begun in the same second
        count += 1
        path = parent / f"{stamp}-{count}"
    return path
