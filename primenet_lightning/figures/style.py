"""One look for every figure: sizes, scales, and how a learner is drawn."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from primenet_lightning.checksums import with_end
from primenet_lightning.files import write_whole
from primenet_lightning.nn.names import HEAD, TOTAL, LearnerName, learners_of, stages_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

FigureFormat = Literal["png", "svg", "pdf"]
"""Kinds of files that figures are written as."""

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
    from primenet_lightning.figures._canvas import PlainTextFigure  # only when something is drawn

    return PlainTextFigure(figsize=(width, height), dpi=100, layout="constrained")


def readable(name: object, most: int = 40) -> str:
    r"""Write the name of a class or learner so that a picture has room for it, and something is seen of it.

    Args:
        name: Any text, or what has one.
        most: Letters at most; of more those in the middle are left out.

    Returns:
        One line. What cannot be printed is written as Python would, and so is a name of blanks.

    Example:
        >>> readable("_unknown_"), readable("ice\ncream"), readable(""), readable("x" * 50, most=5)
        ('_unknown_', 'ice cream', "''", 'xx…xx')
    """
    letters: list[str] = []
    for letter in str(name):
        if letter.isspace():
            letters.append(" ")
        elif letter.isprintable():
            letters.append(letter)
        else:
            letters.append(letter.encode("unicode_escape", "surrogatepass").decode())
    text = "".join(letters)
    if not text.strip():
        return repr(text)
    if len(text) > most:
        first = most // 2
        return f"{text[:first]}\u2026{text[len(text) - (most - 1 - first) :]}"
    return text


def add_legend(owner: "Figure | Axes", handles: Sequence[Any], names: Sequence[object], **look: Any) -> "Legend":
    """Name curves or points, whatever their names are.

    Args:
        owner: What the legend belongs to.
        handles: Curves or points.
        names: What they are called, one each.
        **look: Further arguments of matplotlib's ``legend``.

    Returns:
        The legend.
    """
    # matplotlib takes a name that begins with an underscore for that of something hidden, so it is told afterwards
    legend = owner.legend(handles, [str(place) for place in range(len(handles))], **look)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(readable(name))
        text.set_parse_math(False)
    return legend


def write_figure(figure: "Figure", target: Any, kind: FigureFormat) -> None:
    """Write a figure; as PNG and SVG the same bytes each time.

    Args:
        figure: The figure.
        target: A path, or a file opened for bytes.
        kind: Of the file.
    """
    if isinstance(target, str | Path):
        content = io.BytesIO()
        write_figure(figure, content, kind)
        picture = content.getvalue()
        write_whole(target, with_end(picture, "svg") if kind == "svg" else picture)
        return
    import matplotlib

    metadata: dict[str, Any] = {}
    if kind == "svg":
        metadata = {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "primenet"}):
        figure.savefig(target, format=kind, metadata=metadata)


def plain_log_scale(*all_axes: "Axes") -> None:
    """Make vertical axes logarithmic, with 0.5 written as 0.5 and not as a power of ten.

    Where something is 0, which no logarithm shows, the axis ends in a short linear piece down to 0.

    Args:
        *all_axes: Changed in place, all alike.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, SymmetricalLogLocator

    drawn: list[float] = []
    for axes in all_axes:
        for line in axes.lines:
            drawn += np.asarray(line.get_ydata(), dtype=float).tolist()
    positive = [value for value in drawn if 0 < value < float("inf")]
    reaches_zero = bool(positive) and 0 in drawn
    for axes in all_axes:
        if reaches_zero:
            least = min(positive)
            axes.set_yscale("symlog", linthresh=least, linscale=0.3)
            axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=least, subs=(1, 2, 5)))
            axes.set_ylim(bottom=-0.1 * least)
        else:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
