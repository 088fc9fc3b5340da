"""A CSV logger that lives in a run's folder and goes on with its file when the run is resumed."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.checksums import GrowingFile, read_text
from primenet_lightning.files import whole, without_stopping

EVERY = 100
"""Steps after which what was logged is written, at the latest."""


class ResumableCSVLogger(Logger, metaclass=CheckedArguments):
    """Writes ``metrics.csv`` right into the folder of the run, as Lightning's CSV logger writes it, one row per step.

    Lightning's own deletes the file of a run that is resumed into its folder; this one keeps the rows of the
    steps that are not done again. A hidden file beside it has its check sum.
    It writes no ``hparams.yaml``: the run's ``config.yaml`` says more.

    Args:
        folder: The run's folder.
        resume_at: First step, as in the file's column ``step``, that is done (again) now; rows before it are
            kept. None keeps nothing, unless the Trainer resumes a `PrimeNet` from a checkpoint, which then sets it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(logger=ResumableCSVLogger("runs/first"), enable_checkpointing=False)
        >>> trainer.log_dir
        'runs/first'
    """

    def __init__(self, folder: str | Path, resume_at: int | None = None) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.resume_at = resume_at
        self._checked = GrowingFile(self.path)
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] = []
        self._begun = False

    @property
    def name(self) -> str:
        """None: all is right in the folder."""
        return ""

    @property
    def version(self) -> str:
        """None: all is right in the folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return self.save_dir

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Tensor | float], step: int | None = None) -> None:
        """Take numbers, to be written with the next `save`.

        Args:
            metrics: By name of the column; tensors are scalars, of any shape with one element.
            step: Of the row; None counts the rows that wait.
        """
        row: dict[str, Any] = {}
        for column, value in metrics.items():
            row[column] = value.item() if isinstance(value, Tensor) else value
        if step is None:
            step = len(self._waiting)
        row["step"] = step
        self._waiting.append(row)
        if (step + 1) % EVERY == 0:
            self.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits."""
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Append the rows that wait; those that a full disk refuses go on waiting.

        The file is touched with the first of them: by then the run knows from where it is resumed.
        """
        if not self._waiting:
            return
        with without_stopping(f"writing {self.path}", OSError):
            columns = sorted(set(self._columns).union(*self._waiting))
            if self._begun and columns == self._columns and self.path.is_file():
                self._append(self._waiting)
            else:
                self._rewrite()
            self._begun = True
            self._waiting = []
            self._checked.note()

    def _append(self, rows: list[dict[str, Any]]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
                file.flush()
                os.fsync(file.fileno())  # before its check sum, or a power cut would leave that of more
        except OSError:
            os.truncate(self.path, size)  # or half a row would stay, and come again
            raise

    def _rewrite(self) -> None:
        """Write the rows that are there and those that wait, with the columns of both; no crash loses a row."""
        columns, rows = self._read()
        if not self._begun:
            rows = [row for row in rows if self.resume_at is not None and int(row["step"]) < self.resume_at]
        columns = sorted(set(columns).union(*self._waiting))
        self._checked.forget()
        with whole(self.path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows + self._waiting)
        self._columns = columns

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Columns and rows of the file, if there is one; a crash may have cut its last row short."""
        if not self.path.is_file():
            return [], []
        text = read_text(self.path, "delete it, and what was logged so far is lost")
        whole_rows = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole_rows, newline=""))
        return list(reader.fieldnames or []), list(reader)
