"""One look for every figure, and one way to put it where the run's loggers and its folder are."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

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
    """Make the vertical axis logarithmic, with 0.5 written as 0.5 and not as a power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def run_folder(trainer: Trainer) -> Path:
    """The folder of a run: the first logger's, or without loggers the Trainer's; to be asked on all ranks."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def publish_table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], trainer: Trainer, folder: Path
) -> Path:
    """Save a table into ``folder/figures`` as CSV, and show it to W&B; on rank 0 only.

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
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [index for index, value in enumerate(rows[0] if rows else columns) if not hasattr(value, "shape")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([columns[index] for index in plain])
        writer.writerows([[row[index] for index in plain] for row in rows])
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            shown = [[wandb.Image(value) if hasattr(value, "shape") else value for value in row] for row in rows]
            logger.log_table(f"tables/{name}", columns=list(columns), data=shown)
    return path


def publish(figure: "Figure", name: str, trainer: Trainer, folder: Path) -> Path:
    """Save a figure into ``folder/figures`` and show it to each logger that shows pictures.

    Args:
        figure: The figure.
        name: Name of the file, without suffix.
        trainer: Its loggers are asked.
        folder: The run's folder.

    Returns:
        Path of the PNG file.
    """
    path = folder / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"figures/{name}", [str(path)])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(f"figures/{name}", figure, global_step=trainer.global_step)
    return path
