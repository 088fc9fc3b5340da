"""The charts of the pages under "Measured", from the numbers stored beside them: ``python docs/tools/charts.py``.

Each number is read from ``docs/results/*.json``. Those of a reproduction were written by ``primenet reproduce``; those
in ``deep.json``, ``fast.json``, ``performance.json`` and ``systems.json`` are the numbers of the tables of the pages of
these names, which a test compares. The charts are ``docs/images/charts/*.svg``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from drawing import DOCS, draw_ratios, put_ticks, stored, with_bars
from fast_charts import fast_gap
from systems_charts import CHARTS as OF_SYSTEMS

from primenet_lightning.figures.style import COLOURS, LINE_STYLES, MARKERS, add_legend, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHARTS = DOCS / "images" / "charts"

DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
REPRODUCED = {"digits": "Digits", **DATA}

GROUPS = {
    "end to end": ("end to end, concatenate", "end to end, mean"),
    "one map goes on": ("least_loss", "settle", "commit", "gate by image", "gate by batch"),
    "all maps go on": ("the base: concatenate, cross_entropy, layers", "mean"),
}
"""Rows of the ablation that differ in the router alone."""

NETWORKS = {
    "PrimeNet, least loss": ("prime",),
    "PrimeNet, another router": ("local_fixed", "local_random", "local_mean", "local_concatenate"),
    "end-to-end twin": ("end_to_end_mean", "end_to_end_concatenate"),
    "one scale, end to end": ("one_scale_3", "one_scale_5", "one_scale_7"),
}
"""Parts of a reproduction, by the kind of network."""

SHORT = {
    "prime": "least loss",
    "local_fixed": "fixed",
    "local_random": "random",
    "local_mean": "mean",
    "local_concatenate": "concatenate",
    "end_to_end_mean": "mean",
    "end_to_end_concatenate": "concatenate",
    "one_scale_3": "3x3",
    "one_scale_5": "5x5",
    "one_scale_7": "7x7",
}

NOT_LOCAL = {"overlap": ",\nnot strictly local"}
"""What is said of recipes whose gradient crosses from a part to another."""

VERDICTS = {
    "confirmed": ("o", "#009E73"),
    "not confirmed": ("X", "#D55E00"),
    "cannot be tested here": ("_", "#777777"),
}
"""Marks that are told apart by form and by colour."""


# -- deep stacks -------------------------------------------------------------------------------------------------------


def deep_ratios() -> "Figure":
    """Draw local over end to end with intervals: the gap, and all that the ablation compares."""
    deep = stored("deep")
    figure = new_figure(8, 7.2)
    above, *below = figure.subplot_mosaic("aa;bc", height_ratios=[1, 7]).values()
    names = [f"{row['data']}, {row['epochs']} epochs" for row in deep["gap"]]
    draw_ratios(above, names, [row["ratio"] for row in deep["gap"]], 0)
    above.set_title("10,000 images, with augmentation", fontsize=10)
    names = [row["name"].replace(": concatenate,", ":\nconcatenate,") for row in deep["ablation"]]
    for place, (axes, (key, data)) in enumerate(zip(below, DATA.items(), strict=True)):
        draw_ratios(axes, names, [row[key]["ratio"] for row in deep["ablation"]], place)
        axes.set_title(f"{data}: 5,000 images, 3 epochs", fontsize=10)
    below[1].set_yticklabels([])
    figure.supxlabel("error over that of the end-to-end twin, with 95 % intervals (1: as good)", fontsize=10)
    return figure


def deep_cost() -> "Figure":
    """Draw the error of each router against what an answer costs."""
    rows = {row["name"]: row for row in stored("deep")["ablation"]}
    figure = new_figure(8, 4)
    panels = figure.subplots(1, 2)
    for axes, (key, data) in zip(panels, DATA.items(), strict=True):
        points: dict[str, dict[str, tuple[float, float, float]]] = {}
        for group, names in GROUPS.items():
            points[group] = {}
            for name in names:
                row = rows[name][key]
                points[group][_router_of(name)] = (row["inference"], row["error"], row["spread"])
        _draw_costs(axes, points)
        axes.set_title(data, fontsize=10)
    _name_groups(figure, panels[0], list(GROUPS))
    return figure


def _router_of(name: str) -> str:
    return name.removeprefix("end to end, ").removeprefix("the base: ").partition(",")[0]


def _draw_costs(axes: "Axes", points: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> None:
    """Multiply-adds in millions, error and its spread, by group and name."""
    for place, by_name in enumerate(points.values()):
        costs = [cost for cost, _, _ in by_name.values()]
        errors = [error for _, error, _ in by_name.values()]
        spreads = [spread for _, _, spread in by_name.values()]
        look: dict[str, Any] = {
            "fmt": MARKERS[place],
            "color": COLOURS[place],
            "markersize": 6,
            "capsize": 2,
            "elinewidth": 0.8,
        }
        axes.errorbar(costs, errors, yerr=spreads, **look)
    axes.margins(x=0.2, y=0.1)
    _label_points(axes, points)
    axes.set_xlabel("multiply-adds per image at inference (M)")
    axes.set_ylabel("test error (%)")
    axes.grid(alpha=0.3, linewidth=0.5)


def _label_points(axes: "Axes", points: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> None:
    """Name each point beside it; of points that lie close together, each name higher than the one before."""
    places: list[tuple[float, float, str]] = []
    for by_name in points.values():
        places += [(error, cost, name) for name, (cost, error, _) in by_name.items()]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for error, cost, name in sorted(places):
        height = error
        for other_height, other_cost in taken:
            if abs(cost - other_cost) < 0.2 * (right - left):
                height = max(height, other_height + 0.055 * (high - low))
        taken.append((height, cost))
        shift, side = 0.04 * (right - left), "left"
        if cost > left + 0.6 * (right - left):
            shift, side = -shift, "right"
        line: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.4", "shrinkA": 0, "shrinkB": 3}
        look: dict[str, Any] = {"fontsize": 7.5, "va": "center", "ha": side, "arrowprops": line}
        axes.annotate(name, (cost, error), (cost + shift, height), **look)


def _name_groups(figure: "Figure", axes: "Axes", names: Sequence[str]) -> None:
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "fontsize": 8}
    add_legend(figure, axes.containers, names, **place)


# -- backbones ---------------------------------------------------------------------------------------------------------


def backbone_errors() -> "Figure":
    """Draw what each recipe makes of a backbone cut into two and into four parts, over its twin."""
    recipes = [row for row in stored("backbones")["recipes"] if row["ratio"] is not None]
    figure = new_figure(8, 3.6)
    panels = figure.subplots(1, 2)
    for place, (axes, parts) in enumerate(zip(panels, (2, 4), strict=True)):
        rows = sorted((row for row in recipes if row["parts"] == parts), key=lambda row: row["ratio"]["value"])
        names = [f"{row['recipe']}{NOT_LOCAL.get(row['recipe'], '')} ({row['seeds']})" for row in rows]
        draw_ratios(axes, names, [row["ratio"] for row in rows], place)
        axes.set_title(f"{parts} parts", fontsize=10)
    figure.supxlabel("error over that of the end-to-end twin, with 95 % intervals (1: as good)", fontsize=10)
    return figure


def backbone_costs() -> "Figure":
    """Draw memory and time of a step of each way to train a backbone, over training it end to end."""
    rows = stored("backbones")["costs"]
    models, ways = _unlike(rows, "model"), _unlike(rows, "way")
    figure = new_figure(9, 3.8)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        for place, way in enumerate(ways):
            points = [row for row in rows if (row["model"], row["way"]) == (model, way)]
            look: dict[str, Any] = {
                "color": COLOURS[place],
                "marker": MARKERS[place],
                "linestyle": LINE_STYLES[place % len(LINE_STYLES)],
            }
            axes.plot([point["saved"] for point in points], [point["time"] for point in points], **look)
            for point in points:
                shift: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}
                axes.annotate(str(point["parts"]), (point["saved"], point["time"]), (3, 4), **shift)
        axes.set_title(model, fontsize=10)
        axes.set_xlim(0, 1.1)
        axes.grid(alpha=0.3, linewidth=0.5)
    panels[len(models) // 2].set_xlabel("peak of saved activations, over end to end")
    panels[0].set_ylabel("time of a step, over end to end")
    place_of_legend: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "fontsize": 8}
    add_legend(figure, panels[0].lines, ways, **place_of_legend)
    return figure


def _unlike(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The values that rows have, each once, in their order."""
    return list(dict.fromkeys(row[key] for row in rows))


# -- performance -------------------------------------------------------------------------------------------------------


def memory() -> "Figure":
    """Draw what is held for backward, over the depth."""
    results = stored("performance")["memory"]
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for place, values in enumerate(results["mebibytes"].values()):
        look: dict[str, Any] = {
            "color": COLOURS[place],
            "marker": MARKERS[place],
            "linestyle": LINE_STYLES[place % len(LINE_STYLES)],
        }
        axes.plot(results["depths"], values, **look)
    axes.set(xscale="log", yscale="log", xlabel="blocks", ylabel="peak of saved activations (MiB)")
    for axis, ticks in ((axes.xaxis, results["depths"]), (axes.yaxis, [5, 10, 20, 50, 100, 200, 500])):
        put_ticks(axis, ticks)
    axes.grid(alpha=0.3, linewidth=0.5)
    place_of_legend: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "fontsize": 8}
    add_legend(figure, axes.lines, list(results["mebibytes"]), **place_of_legend)
    return figure


def training() -> "Figure":
    """Draw how fast a step is, against what a user would write instead, with quartiles."""
    results = stored("performance")["training"]
    figure = new_figure(8, 3.2)
    axes = figure.subplots()
    shift, middle = 0.18, (len(results["over"]) - 1) / 2
    for place, ratios in enumerate(results["over"].values()):
        heights = [row + (place - middle) * shift for row in range(len(ratios))]
        values, bars = with_bars(ratios)
        look: dict[str, Any] = {"fmt": MARKERS[place], "color": COLOURS[place], "capsize": 3, "markersize": 5}
        axes.errorbar(values, heights, xerr=bars, **look)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    put_ticks(axes.xaxis, [0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3])
    axes.set_yticks(range(len(results["cases"])), results["cases"])
    axes.set_ylim(len(results["cases"]) - 0.5, -0.5)
    axes.grid(alpha=0.3, linewidth=0.5)
    place_of_legend: dict[str, Any] = {"loc": "outside lower center", "ncols": 2, "fontsize": 8}
    names = [_in_a_legend(name) for name in results["over"]]
    add_legend(figure, axes.containers, names, **place_of_legend)
    return figure


def _in_a_legend(name: str) -> str:
    """What a ratio is of, and over what."""
    if name.startswith("over"):
        return f"images per second {name}"
    return name.replace(" with all that makes ours fast", ", equally fast")


# -- the paper's claims ------------------------------------------------------------------------------------------------


def verdicts() -> "Figure":
    """Draw what came of each claim, on each data set."""
    verdicts_by_data = {title: stored(name)["verdicts"] for name, title in REPRODUCED.items()}
    claims = [verdict["claim"] for verdict in verdicts_by_data["MNIST"]]
    figure = new_figure(7, 5)
    axes = figure.subplots()
    for column, verdicts_of_data in enumerate(verdicts_by_data.values()):
        for verdict in verdicts_of_data:
            marker, colour = VERDICTS[verdict["verdict"]]
            axes.plot(column, claims.index(verdict["claim"]), marker=marker, color=colour, markersize=11, linewidth=0)
    axes.set_xticks(range(len(verdicts_by_data)), list(verdicts_by_data))
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(claims)), claims)
    axes.set_xlim(-0.5, len(verdicts_by_data) - 0.5)
    axes.set_ylim(len(claims) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    handles: list[Any] = []
    for marker, colour in VERDICTS.values():
        handles += axes.plot([], [], marker=marker, color=colour, markersize=9, linewidth=0)
    add_legend(figure, handles, list(VERDICTS), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def reproduced() -> "Figure":
    """Draw the errors of a reproduction against what an answer costs."""
    figure = new_figure(9, 4.4)
    panels = figure.subplots(1, len(REPRODUCED))
    for axes, (name, title) in zip(panels, REPRODUCED.items(), strict=True):
        parts = stored(name)["parts"]
        points: dict[str, dict[str, tuple[float, float, float]]] = {}
        for group, keys in NETWORKS.items():
            points[group] = {}
            for key in keys:
                if key in parts:
                    error = parts[key]["test_error"]
                    cost = parts[key]["cost/multiply_adds_inference"]["mean"] / 1e6
                    points[group][SHORT[key]] = (cost, error["mean"], error["spread"] or 0.0)
        _draw_costs(axes, points)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("multiply-adds (M)")
    for axes in panels[1:]:
        axes.set_ylabel("")
    _name_groups(figure, panels[0], list(NETWORKS))
    return figure


ALL = {
    "deep-ratios": deep_ratios,
    "deep-cost": deep_cost,
    "backbone-errors": backbone_errors,
    "backbone-costs": backbone_costs,
    "fast-gap": fast_gap,
    "memory": memory,
    "training": training,
    **OF_SYSTEMS,
    "verdicts": verdicts,
    "reproduced": reproduced,
}
"""Charts by the name of their file."""


def main() -> None:
    """Draw all charts."""
    CHARTS.mkdir(parents=True, exist_ok=True)
    for name, draw in ALL.items():
        write_figure(draw(), CHARTS / f"{name}.svg", "svg")


if __name__ == "__main__":
    main()
