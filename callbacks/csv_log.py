"""A CSV logger that lives in a run's folder and goes on with its file when the run is resumed."""

import csv
import io
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from primenet_lightning.files import without_stopping


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` right into the folder of the run.

    Lightning's own deletes the file of a run that is resumed into its folder; this one keeps the rows of the
    steps that are not done again. It writes no ``hparams.yaml``: the run's ``config.yaml`` says more.

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
        super().__init__(folder, name="", version="")
        self.resume_at = resume_at

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer; with its first rows, those of the steps to come are dropped from the file."""
        if self._experiment is None:
            Path(self.save_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Writer(self.save_dir)
        writer: Any = self._experiment
        writer.resume_at = self.resume_at
        return writer

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return self.save_dir

    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Write nothing."""


class _Writer(ExperimentWriter):
    """Touches the file when it first writes: by then the run knows from where it is resumed."""

    def __init__(self, folder: str) -> None:
        self.resume_at: int | None = None
        self._begun = False
        super().__init__(folder)

    def save(self) -> None:
        """Append the new rows; those that a full disk refuses are kept for the next time."""
        path = Path(self.metrics_file_path)
        if not self._begun and self.metrics and path.is_file():
            self._keep()
        self._begun = self._begun or bool(self.metrics)
        size = path.stat().st_size if path.is_file() else 0
        with without_stopping(f"writing {path}", OSError):
            try:
                super().save()
            except OSError:
                if path.is_file():
                    os.truncate(path, size)  # or half a row would stay, and come again
                raise

    def _check_log_dir_exists(self) -> None:
        """Neither warn that the folder is not empty nor delete the file, as Lightning's own does."""

    def _keep(self) -> None:
        keys, rows = self._read()
        self.metrics_keys = keys
        kept = [row for row in rows if self.resume_at is not None and int(row["step"]) < self.resume_at]
        self._write(kept)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Lightning's own empties the file first; a crash in between would lose every row."""
        self._write(self._read()[1])

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        text = Path(self.metrics_file_path).read_bytes().decode()
        whole = text[: text.rfind("\n") + 1]  # a crash may have cut the last row short
        reader = csv.DictReader(io.StringIO(whole, newline=""))
        return list(reader.fieldnames or []), list(reader)

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Write beside the file and rename, so that no crash loses the rows."""
        path = Path(self.metrics_file_path)
        written = path.with_suffix(".tmp")
        with written.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        written.replace(path)
