"""Puts figures and tables where the run's loggers and its folder are; and what the data say of themselves."""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from primenet_lightning.analysis.views import named_classes
from primenet_lightning.figures.curves import Points, curve, curves_in
from primenet_lightning.figures.style import FigureFormat, write_figure
from primenet_lightning.files import as_text, without_stopping, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = get_args(FigureFormat)


def run_folder(trainer: Trainer) -> Path:
    """Tell the folder of a run; to be asked on all ranks.

    Args:
        trainer: Of the run.

    Returns:
        The first logger's ``log_dir``, or without loggers the Trainer's ``default_root_dir``.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


def folder_of(trainer: Trainer, folder: str | Path | None) -> Path:
    """Tell where ``figures/`` goes; to be asked on all ranks.

    Args:
        trainer: Of the run.
        folder: What a user chose; None takes `run_folder`.

    Returns:
        The folder.
    """
    return run_folder(trainer) if folder is None else Path(folder)


class DrawnAtTheEnd(Callback):
    """Draws when a fit ends, and what there is of one that Ctrl-C has stopped.

    Args:
        folder: Where ``figures/`` goes; None takes `run_folder`.
        figure_format: Kind of the files: ``"png"``, ``"svg"`` or ``"pdf"``.

    Raises:
        ValueError: If ``figure_format`` is unknown.
    """

    def __init__(self, folder: str | Path | None, figure_format: FigureFormat = "png") -> None:
        refuse_format(figure_format)
        self.folder = folder
        self.figure_format = figure_format

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is of an interrupted run."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            self._draw(trainer)

    def folder_to_draw_in(self, trainer: Trainer) -> Path | None:
        """Tell where to draw; to be asked on all ranks.

        Args:
            trainer: Of the run.

        Returns:
            ``folder``, or `run_folder` where that is None; None on all ranks but the first, and in a ``fast_dev_run``.
        """
        folder = folder_of(trainer, self.folder)
        draws = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        return folder if draws else None

    def _draw(self, trainer: Trainer) -> None:
        raise NotImplementedError


# -- to the folder, and to the loggers that show such things -----------------------------------------------------------


def refuse_format(figure_format: str) -> None:
    """Refuse a kind of file that figures are not written as.

    Args:
        figure_format: What was asked for.

    Raises:
        ValueError: If it is none of the three.

    Example:
        >>> refuse_format("jpeg")
        Traceback (most recent call last):
            ...
        ValueError: figure_format='jpeg' is unknown; use one of 'png', 'svg', 'pdf'
    """
    if figure_format not in FORMATS:
        raise ValueError(f"figure_format={figure_format!r} is unknown; use one of {', '.join(map(repr, FORMATS))}")


def publish(figure: "Figure", name: str, trainer: Trainer, folder: Path, figure_format: FigureFormat = "png") -> Path:
    """Save a figure into ``folder/figures`` and show it to each logger that shows pictures; on rank 0 only.

    What cannot be written or sent becomes a warning.

    Args:
        figure: The figure.
        name: Name of the file, without suffix.
        trainer: Its loggers are asked.
        folder: The run's folder.
        figure_format: Kind of the file. No page shows a PDF, so that a PNG comes with it, for the report.

    Returns:
        Path of the file.
    """
    path = folder / "figures" / f"{name}.{figure_format}"
    with without_stopping(f"writing {path}"):
        write_figure(figure, path, figure_format)
        if figure_format == "pdf":
            write_figure(figure, path.with_suffix(".png"), "png")
    for logger in _wandb_loggers(trainer):
        with without_stopping(f"sending the figure {name} to W&B"):
            picture = _as_picture(figure) if figure_format == "svg" else str(path.with_suffix(".png"))
            logger.log_image(f"figures/{name}", [picture])
    for other in trainer.loggers:
        if isinstance(other, TensorBoardLogger):
            other.experiment.add_figure(f"figures/{name}", figure, global_step=trainer.global_step)
    return path


def _as_picture(figure: "Figure") -> Any:
    """A figure as pixels, which is what W&B shows."""
    from PIL import Image

    buffer = io.BytesIO()
    write_figure(figure, buffer, "png")
    return Image.open(buffer)


def publish_table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], trainer: Trainer, folder: Path
) -> Path:
    """Save a table into ``folder/figures`` as CSV, and show it to W&B; on rank 0 only.

    What cannot be written or sent becomes a warning.

    Args:
        name: Name of the file, without suffix.
        columns: Names of the columns.
        rows: Numbers, strings, and for W&B also ``(height, width)`` or ``(height, width, 3)`` uint8 arrays, which are
            images there and left out of the CSV.
        trainer: Its loggers are asked.
        folder: The run's folder.

    Returns:
        Path of the CSV file.
    """
    path = folder / "figures" / f"{name}.csv"
    with without_stopping(f"writing {path}"):
        _write_csv(path, columns, rows)
    for logger in _wandb_loggers(trainer):
        with without_stopping(f"sending the table {name} to W&B"):
            logger.log_table(f"tables/{name}", columns=list(columns), data=list(map(_for_wandb, rows)))
    return path


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write all columns but those of images."""
    first = columns
    if rows:
        first = rows[0]
    shown = [not _is_image(value) for value in first]
    text = io.StringIO()
    writer = csv.writer(text)
    for row in (columns, *rows):
        writer.writerow([as_text(value) for value in itertools.compress(row, shown)])
    write_whole(path, text.getvalue())


def _for_wandb(row: Sequence[Any]) -> list[Any]:
    import wandb

    return [wandb.Image(value) if _is_image(value) else value for value in row]


def _is_image(value: Any) -> bool:
    return hasattr(value, "shape")


def publish_series(name: str, axis: str, points: Points, trainer: Trainer) -> None:
    """Show curves to W&B as one of its line series, ``charts/<name>``; other loggers have the numbers already.

    Args:
        name: Name of the chart.
        axis: What the curves are drawn over.
        points: Place on that axis, and values by curve; a curve may end before the others.
        trainer: Its loggers are asked.
    """
    for logger in _wandb_loggers(trainer):
        with without_stopping(f"sending the chart {name} to W&B"):
            import wandb

            keys = curves_in(points)
            places_by_curve: list[list[int]] = []
            values_by_curve: list[list[float]] = []
            for key in keys:
                places, values = curve(key, points)
                places_by_curve.append(places)
                values_by_curve.append(values)
            chart = wandb.plot.line_series(xs=places_by_curve, ys=values_by_curve, keys=keys, title=name, xname=axis)
            logger.log_metrics({f"charts/{name}": chart}, step=trainer.fit_loop.total_batch_idx)  # type: ignore[dict-item]


def _wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


# -- what the data say of themselves -----------------------------------------------------------------------------------


def class_names(trainer: Trainer, pl_module: LightningModule, count: int) -> list[str]:
    """Say what the classes are called.

    Args:
        trainer: Whose data module may know.
        pl_module: Whose checkpoint may know.
        count: Number of classes.

    Returns:
        The names, or indices where nobody knows as many.
    """
    return named_classes(_described(trainer, pl_module, "class_names"), count)


def normalization(trainer: Trainer, pl_module: LightningModule) -> tuple[Any, Any]:
    """Tell how the images were normalised.

    Args:
        trainer: Whose data module may know.
        pl_module: Whose checkpoint may know.

    Returns:
        Mean and standard deviation per channel, with pixels measured from 0 to 1; None where nobody knows.
    """
    return _described(trainer, pl_module, "mean"), _described(trainer, pl_module, "std")


def _described(trainer: Trainer, pl_module: LightningModule, field: str) -> Any:
    """What the data module, or else the model's checkpoint, says of the data."""
    value = getattr(getattr(trainer, "datamodule", None), field, None)
    if value is not None:
        return value
    description = getattr(pl_module, "data_description", None) or {}
    return description.get(field)
