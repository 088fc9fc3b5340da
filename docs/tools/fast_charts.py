"""The chart of the page on fast CIFAR-10: how the gap between local and end to end goes with the epochs."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drawing import put_ticks, stored, with_bars

from primenet_lightning.figures.style import COLOURS, LINE_STYLES, MARKERS, add_legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TWIN = "end to end"


def fast_gap() -> "Figure":
    """Draw errors over epochs, local and end to end, and the ratio of the two with its interval."""
    gap = stored("fast")["gap"]
    figure = new_figure(8, 3.8)
    errors, ratios = figure.subplots(1, 2)
    sets = list(dict.fromkeys(row["images"] for row in gap))
    names: list[str] = []
    for place, images in enumerate(sets):
        rows = [row for row in gap if row["images"] == images]
        count = "all images" if images is None else f"{images:,} images"
        local = [row for row in rows if row["variant"] != TWIN]
        twin = [row for row in rows if row["variant"] == TWIN]
        _draw_errors(errors, local, place, LINE_STYLES[0])
        _draw_errors(errors, twin, place, LINE_STYLES[1])
        names += [f"local, {count}", f"{TWIN}, {count}"]
        _draw_ratio_over_epochs(ratios, local, place)
    _name_epochs(errors, gap)
    errors.set_ylabel("test error (%), flips averaged")
    _name_epochs(ratios, gap)
    ratios.axhline(1, color="black", linewidth=1)
    ratios.set_ylabel("local over end to end (1: as good)")
    place_of_legend: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "fontsize": 8}
    add_legend(figure, errors.containers, names, **place_of_legend)
    return figure


def _draw_errors(axes: "Axes", rows: Sequence[Mapping[str, Any]], place: int, line_style: Any) -> None:
    """Mean and spread over seeds."""
    epochs = [row["epochs"] for row in rows]
    means = [statistics.mean(row["errors_flips"]) for row in rows]
    spreads: list[float] = []
    for row in rows:
        errors = row["errors_flips"]
        spreads.append(statistics.stdev(errors) if len(errors) > 1 else 0.0)
    look: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "capsize": 2, "markersize": 5}
    axes.errorbar(epochs, means, yerr=spreads, linestyle=line_style, **look)


def _draw_ratio_over_epochs(axes: "Axes", rows: Sequence[Mapping[str, Any]], place: int) -> None:
    ratios = [row["ratio_flips"] for row in rows]
    # a little apart, or the bars of two sets hide each other
    epochs = [row["epochs"] * 1.04**place for row in rows]
    look: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "capsize": 3, "markersize": 5}
    values, bars = with_bars(ratios)
    axes.errorbar(epochs, values, yerr=bars, **look)


def _name_epochs(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    axes.set_xscale("log")
    put_ticks(axes.xaxis, sorted({row["epochs"] for row in rows}))
    axes.set_xlabel("epochs")
    axes.grid(alpha=0.3, linewidth=0.5)
