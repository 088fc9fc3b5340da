"""What the charts share: the stored numbers, and ratios with their intervals."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primenet_lightning.figures.style import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS / "results"


def stored(name: str) -> Any:
    """Read results.

    Args:
        name: Of the file, without suffix.

    Returns:
        Plain values.
    """
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def with_bars(ratios: Sequence[Mapping[str, float]]) -> tuple[list[float], list[list[float]]]:
    """Take ratios apart for matplotlib.

    Args:
        ratios: ``value``, ``low`` and ``high`` of each.

    Returns:
        Their values, and how far the bars reach down and up.
    """
    values = [ratio["value"] for ratio in ratios]
    down = [ratio["value"] - ratio["low"] for ratio in ratios]
    up = [ratio["high"] - ratio["value"] for ratio in ratios]
    return values, [down, up]


def put_ticks(axis: "Axis", ticks: Sequence[float], write: Callable[[float], str] = "{:g}".format) -> None:
    """Put ticks at these places of an axis, and at no others.

    Args:
        axis: Mostly a logarithmic one.
        ticks: The places.
        write: Names a place.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_locator(NullLocator())


def draw_ratios(axes: "Axes", names: Sequence[str], ratios: Sequence[Mapping[str, float]], look: int) -> None:
    """Draw ratios one below the other, on an axis on which twice and half are as far from 1.

    Args:
        axes: Where.
        names: Of the ratios.
        ratios: ``value``, ``low`` and ``high`` of each.
        look: Which colour and mark.
    """
    places = range(len(names))
    values, bars = with_bars(ratios)
    look_of: dict[str, Any] = {"fmt": MARKERS[look], "color": COLOURS[look], "capsize": 3, "markersize": 5}
    axes.errorbar(values, places, xerr=bars, **look_of)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5]
    if max(values) > 2:
        ticks = [0.8, 1, 1.5, 2, 3, 4]
    put_ticks(axes.xaxis, ticks)
    axes.tick_params(labelsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(alpha=0.3, linewidth=0.5)
