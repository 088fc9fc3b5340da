"""One look for every figure: sizes, scales, and how a learner is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from primenet_lightning.nn.names import HEAD, TOTAL, LearnerName, learners_of, stages_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell the capsules apart in greyscale.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", "-.", ":")


def style_of(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Give a learner its look, the same in every figure: colour and marker by its place, line by its stage.

    Args:
        name: ``"block0.k3"``, ..., ``"head"`` or ``"total"``.
        names: All learners, in order.

    Returns:
        Keyword arguments of ``Axes.plot``.

    Example:
        >>> style_of("block1.k3", ["block0.k3", "block0.k5", "block1.k3"])
        {'color': '#0072B2', 'marker': 'o', 'linestyle': '--'}
    """
    if name == HEAD:
        return {"color": "black", "linestyle": "-", "marker": "x"}
    if name == TOTAL:
        return {"color": "grey", "linestyle": (0, (1, 1)), "marker": ""}
    stage, learner = LearnerName.parse(name)
    place_of_stage = stages_of(names).index(stage)
    # stages of one learner each are told apart by colour, too
    place = learners_of(stage, names).index(name) if learner else place_of_stage
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINE_STYLES[place_of_stage % len(LINE_STYLES)],
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
