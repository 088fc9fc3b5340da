"""A CSV logger that goes on with its file when a run is resumed."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment


class ResumableCSVLogger(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` right into the folder of the run.

    Lightning's own deletes the file of a run that is resumed into its folder; this one keeps its rows.

    Args:
        folder: The run's folder.
        resume: Whether to keep the rows that are there.
    """

    def __init__(self, folder: str | Path, resume: bool = False) -> None:
        super().__init__(folder, name="", version="")
        self._kept = _read_rows(Path(folder) / "metrics.csv") if resume else []

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Lightning's writer; at its first use it is given the rows of the run so far."""
        fresh = self._experiment is None
        writer = super().experiment
        if fresh and self._kept:
            writer.metrics = [*self._kept, *writer.metrics]
            writer.save()
            self._kept = []
        return writer

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return self.save_dir


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
