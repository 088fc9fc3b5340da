"""The charts of the page on the systems of table 2: error against what an answer costs."""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from drawing import put_ticks, stored

from primenet_lightning.figures.style import COLOURS, LINE_STYLES, MARKERS, add_legend, new_figure

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Of costs, in million multiply-adds."""

Row = Mapping[str, Any]


def systems() -> "Figure":
    """Draw all networks trained on CIFAR-10, a colour for each system."""
    rows = [row for row in stored("systems")["rows"] if row["data"] == "cifar10"]
    figure = new_figure(8, 5.4)
    axes = figure.subplots()
    groups = list(dict.fromkeys(row["group"] for row in rows))
    drawn: dict[str, int] = dict.fromkeys(groups, 0)
    for row in rows:
        _draw(axes, row, COLOURS[groups.index(row["group"])], drawn[row["group"]])
        drawn[row["group"]] += 1
    _name_axes(axes, rows)
    add_legend(figure, axes.containers, _names(rows), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def some(*names: str, parts: Mapping[str, str] | None = None) -> "Figure":
    """Draw a few networks, each in a colour of its own.

    Args:
        *names: Of the rows.
        parts: Of which rows the parts are drawn, too, each used alone, and what they are called.

    Returns:
        The figure.
    """
    by_name = {row["name"]: row for row in stored("systems")["rows"]}
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    legend: list[str] = []
    for place, name in enumerate(names):
        _draw(axes, by_name[name], COLOURS[place], place)
        legend.append(name)
        if parts is not None and name in parts:
            _draw_parts(axes, by_name[name]["points"], COLOURS[place], place)
            legend.append(parts[name])
    _name_axes(axes, [by_name[name] for name in names])
    add_legend(figure, axes.containers, legend, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _draw(axes: "Axes", row: Row, colour: str, look: int) -> None:
    """A line through the settings of a network, or a point with the spread of its seeds."""
    of_row: dict[str, Any] = {"color": colour, "marker": MARKERS[look], "linestyle": LINE_STYLES[look], "capsize": 2}
    costs = [point["multiply_adds"] / 1e6 for point in row["curve"]]
    errors = [point["error"] for point in row["curve"]]
    if costs:
        axes.errorbar(costs, errors, **of_row)
        return
    errors = row["errors"]
    spread = statistics.stdev(errors) if len(errors) > 1 else None
    axes.errorbar([row["multiply_adds"] / 1e6], [statistics.mean(errors)], yerr=spread, **of_row)


def _draw_parts(axes: "Axes", points: Sequence[Row], colour: str, look: int) -> None:
    """Hollow marks, and a line through those of several costs."""
    costs = [point["multiply_adds"] / 1e6 for point in points]
    errors = [point["error"] for point in points]
    is_curve = len({*costs}) == len(costs)  # branches of one cost are none
    line = ":" if is_curve else "none"
    of_parts: dict[str, Any] = {"color": colour, "marker": MARKERS[look], "markerfacecolor": "none", "linestyle": line}
    axes.errorbar(costs, errors, **of_parts)


def _name_axes(axes: "Axes", rows: Sequence[Row]) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.1)
    # costs that are all alike do not fill the width
    low, high = axes.get_xlim()
    low, high = min(low, high / 4), max(high, low * 4)
    axes.set_xlim(low, high)
    put_ticks(axes.xaxis, [tick for tick in TICKS if low <= tick <= high])
    axes.set_xlabel("multiply-adds per image at inference (M)")
    axes.set_ylabel("test error (%)")
    axes.set_title(f"{rows[0]['images']:,} training images", fontsize=10)
    axes.grid(alpha=0.3, linewidth=0.5)


def _names(rows: Sequence[Row]) -> list[str]:
    return [row["name"] for row in rows]


def dt_ram() -> "Figure":
    """Draw DT-RAM's error against its glimpses: left by its policy, and after numbers that are fixed."""
    (row,) = [row for row in stored("systems")["rows"] if row["name"] == "DT-RAM"]
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    steps = [point["steps"] for point in row["curve"]]
    errors = [point["error"] for point in row["curve"]]
    axes.plot(steps, errors, color=COLOURS[0], marker=MARKERS[0])
    fixed = row["fixed"]
    axes.plot(range(1, len(fixed) + 1), fixed, color=COLOURS[1], marker=MARKERS[1], linestyle=LINE_STYLES[1])
    axes.set_yscale("log")
    put_ticks(axes.yaxis, (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50))
    axes.set_xlabel("glimpses of an image, in the mean")
    axes.set_ylabel("test error (%)")
    axes.set_title(f"MNIST, {row['images']:,} training images", fontsize=10)
    axes.grid(alpha=0.3, linewidth=0.5)
    names = ["stopped by its policy", "as many glimpses for all"]
    add_legend(figure, axes.lines, names, loc="outside lower center", ncols=2, fontsize=8)
    return figure


CHARTS: "dict[str, Callable[[], Figure]]" = {
    "systems": systems,
    "systems-condensenet": partial(some, "CondenseNet-86", "CondenseNet-86, dense", "CondenseNet-86, fixed groups"),
    "systems-msdnet": partial(
        some,
        "MSDNet, sum",
        "MSDNet, equilibrium",
        parts={"MSDNet, sum": "sum, all images at one exit", "MSDNet, equilibrium": "equilibrium, all at one exit"},
    ),
    "systems-imta": partial(
        some,
        "MSDNet, equilibrium",
        "IMTA",
        parts={"MSDNet, equilibrium": "equilibrium, all images at one exit", "IMTA": "IMTA, all at one exit"},
    ),
    "systems-one": partial(some, "ONE", "ResNet-32", parts={"ONE": "ONE's branches, and all of them together"}),
    "systems-rnp": partial(some, "RNP", "PrimeNet", parts={"RNP": "its network, one width for all"}),
    "systems-dt-ram": dt_ram,
}
"""Charts of the page by the name of their file."""
