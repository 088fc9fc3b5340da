"""One look for every figure, and one way to put it where the run's loggers and its folder are."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from primenet_lightning.files import without_stopping

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell the capsules apart in greyscale.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", "-.", ":")


def style_of(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Give a learner its look, the same in every figure: colour and marker by its place, line by its block.

    Args:
        name: ``"block0.k3"``, ..., ``"head"`` or ``"total"``.
        names: All learners, in order.

    Returns:
        Keyword arguments of ``Axes.plot``.
    """
    if name == "head":
        return {"color": "black", "linestyle": "-", "marker": "x"}
    if name == "total":
        return {"color": "grey", "linestyle": (0, (1, 1)), "marker": ""}
    block = name.partition(".")[0]
    place = [other for other in names if other.startswith(f"{block}.")].index(name)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINE_STYLES[int(block.removeprefix("block")) % len(LINE_STYLES)],
    }


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure that belongs to no window and no global state.

    Args:
        width: In inches, at 100 dots an inch.
        height: In inches.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure  # only when something is drawn: it takes half a second

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def plain_log_scale(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, with 0.5 written as 0.5 and not as a power of ten.

    Args:
        axes: Changed in place.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def run_folder(trainer: Trainer) -> Path:
    """Tell the folder of a run; to be asked on all ranks.

    Args:
        trainer: Of the run.

    Returns:
        The first logger's ``log_dir``, or without loggers the Trainer's ``default_root_dir``.
    """
    return Path(trainer.log_dir or trainer.default_root_dir)


class DrawnAtTheEnd(Callback):
    """Draws when a fit ends, and what there is of one that Ctrl-C has stopped.

    Args:
        folder: Where ``figures/`` goes; None takes `run_folder`.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder
        self._resumes = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what a checkpoint is opened for."""
        self._resumes = stage == "fit"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run that is resumed; where its checkpoint is only tested, what has been seen stays."""
        if self._resumes:
            self._take_over(state_dict)

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
        folder = run_folder(trainer) if self.folder is None else Path(self.folder)
        draws = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        return folder if draws else None

    def _draw(self, trainer: Trainer) -> None:
        raise NotImplementedError

    def _take_over(self, state_dict: Mapping[str, Any]) -> None:
        raise NotImplementedError


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
    plain = [index for index, value in enumerate(rows[0] if rows else columns) if not hasattr(value, "shape")]
    with without_stopping(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([columns[index] for index in plain])
            writer.writerows([[row[index] for index in plain] for row in rows])
    for logger in _wandb_loggers(trainer):
        with without_stopping(f"sending the table {name} to W&B"):
            import wandb

            shown = [[wandb.Image(value) if hasattr(value, "shape") else value for value in row] for row in rows]
            logger.log_table(f"tables/{name}", columns=list(columns), data=shown)
    return path


def curves_in(points: Sequence[tuple[int, Mapping[str, float]]]) -> list[str]:
    """Name the curves that have a point anywhere, in the order of their first.

    Args:
        points: Place on the axis, and values by curve.

    Returns:
        Their names.

    Example:
        >>> curves_in([(1, {"k3": 0.5, "head": 0.4}), (2, {"head": 0.3})])
        ['k3', 'head']
    """
    return list(dict.fromkeys(name for _, values in points for name in values))


def publish_series(name: str, axis: str, points: Sequence[tuple[int, dict[str, float]]], trainer: Trainer) -> None:
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
            chart = wandb.plot.line_series(
                xs=[[place for place, values in points if key in values] for key in keys],
                ys=[[values[key] for _, values in points if key in values] for key in keys],
                keys=keys,
                title=name,
                xname=axis,
            )
            logger.log_metrics({f"charts/{name}": chart}, step=trainer.fit_loop.total_batch_idx)  # type: ignore[dict-item]


def publish(figure: "Figure", name: str, trainer: Trainer, folder: Path) -> Path:
    """Save a figure into ``folder/figures`` and show it to each logger that shows pictures; on rank 0 only.

    What cannot be written or sent becomes a warning.

    Args:
        figure: The figure.
        name: Name of the file, without suffix.
        trainer: Its loggers are asked.
        folder: The run's folder.

    Returns:
        Path of the PNG file.
    """
    path = folder / "figures" / f"{name}.png"
    with without_stopping(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        for logger in _wandb_loggers(trainer):
            with without_stopping(f"sending the figure {name} to W&B"):
                logger.log_image(f"figures/{name}", [str(path)])
    for other in trainer.loggers:
        if isinstance(other, TensorBoardLogger):
            other.experiment.add_figure(f"figures/{name}", figure, global_step=trainer.global_step)
    return path


def _wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
