"""The plot of ``benchmarks/systems.py``: error against cost by data set, and DT-RAM's error against its glimpses."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primenet_lightning.figures.style import COLOURS, MARKERS, add_legend, new_figure, write_figure
from primenet_lightning.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"cifar10": "CIFAR-10", "mnist": "MNIST"}

Rows = Sequence[Mapping[str, Any]]


def draw(rows: Rows, path: Path) -> None:
    """Draw the rows of a report.

    Args:
        rows: As ``rows.json`` has them; at least one.
        path: Of the SVG.
    """
    sets = [data for data in TITLES if any(row["data"] == data for row in rows)]
    glimpses = [row for row in rows if row["fixed"]]
    panels = len(sets) + bool(glimpses)
    figure = new_figure(4.6 * panels, 4.4)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    handles: dict[str, Any] = {}
    for panel, data in zip(axes, sets, strict=False):
        rows_of_data = [row for row in rows if row["data"] == data]
        handles |= _draw_costs(panel, rows_of_data, groups)
        panel.set_title(f"{TITLES[data]}, {rows_of_data[0]['images']:,} training images", fontsize=10)
    if glimpses:
        _draw_glimpses(axes[-1], glimpses[0])
    add_legend(figure, list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=8)
    with whole(path) as draft, draft.open("wb") as file:
        write_figure(figure, file, "svg")


def _draw_costs(axes: "Axes", rows: Rows, groups: Sequence[str]) -> dict[str, Any]:
    """A point a network, and a line a curve; handles for the legend by group."""
    handles: dict[str, Any] = {}
    for row in rows:
        place = groups.index(row["group"])
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        points = [(point["multiply_adds"] / 1e6, point["error"]) for point in row["curve"]]
        if not points:
            points = [(row["multiply_adds"] / 1e6, statistics.mean(row["errors"]))]
        costs, errors = zip(*points, strict=True)
        (handles[row["group"]],) = axes.plot(costs, errors, markersize=5, linewidth=1, **look)
        axes.annotate(row["name"], points[-1], (4, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.1)
    axes.set_xlabel("multiply-adds per image at inference (M)")
    axes.set_ylabel("test error (%)")
    axes.grid(alpha=0.3, linewidth=0.5)
    return handles


def _draw_glimpses(axes: "Axes", row: Mapping[str, Any]) -> None:
    """Dynamic stopping beside fixed numbers of glimpses."""
    steps = [point["steps"] for point in row["curve"]]
    errors = [point["error"] for point in row["curve"]]
    fixed = row["fixed"]
    axes.plot(steps, errors, color=COLOURS[0], marker="o", label="stops by its policy")
    axes.plot(range(1, len(fixed) + 1), fixed, color=COLOURS[1], marker="s", label="fixed, own classifier each")
    axes.set_xlabel("mean glimpses")
    axes.set_ylabel("test error (%)")
    axes.set_title(f"{row['name']}, {TITLES[row['data']]}", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, linewidth=0.5)
