"""The page of results, and its two plots, from the rows stored: ``python docs/tools/leaderboard.py``.

It reads ``docs/results/leaderboard.json``, a list of rows, and writes ``docs/leaderboard.md`` and
``docs/images/leaderboard/*.svg``. A row has the keys of `KEYS`:

- ``dataset``, ``"cifar10"`` or ``"mnist"``; ``name``, of the network and how it learns, one of its own;
- ``local``: whether gradients stay inside parts; ``parts``: how many, None where it is not known or there is one;
- ``parameters``: of all that predicts; ``training_multiply_adds``: of the whole training, local classifiers included;
- ``seeds``, and by seed ``test_errors`` and ``test_errors_flips``, in %: without, and with logits averaged over the
  views ``views``, ``"flips"`` or ``"flips_shifts"``, ``""`` for none;
- ``twin``: the name of the row of the same network end to end;
- of a run here ``command``, ``commit``, ``machine`` and ``hours`` of one seed, and no ``source``;
- of a published figure ``source`` and ``known``, a key of `KNOWN`, and none of these four.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawing import put_ticks

from primenet_lightning.figures.style import COLOURS, MARKERS, add_legend, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parents[1]
ROWS = DOCS / "results" / "leaderboard.json"
PAGE = DOCS / "leaderboard.md"
PLOTS = DOCS / "images" / "leaderboard"

DATA = {"cifar10": "CIFAR-10", "mnist": "MNIST"}

OF_ALL = ("dataset", "name", "local", "parts", "parameters", "training_multiply_adds", "twin")
OF_ERRORS = ("seeds", "test_errors", "test_errors_flips", "views")
OF_RUNS = ("command", "commit", "machine", "hours")
OF_PUBLISHED = ("source", "known")
KEYS = (*OF_ALL, *OF_ERRORS, *OF_RUNS, *OF_PUBLISHED)
"""What every row has."""

KNOWN = {
    "code": "the authors' repository",
    "text": "the authors' text",
    "figure": "read off a plot or table of theirs",
    "second hand": "quoted by others",
    "claimed": "the paper that this package rebuilds; not reproduced",
}
"""How a published figure is known."""

LOOKS = {
    "local, here": (True, True),
    "end to end, here": (False, True),
    "local, published": (True, False),
    "end to end, published": (False, False),
}
"""Groups of the plots: whether they learn locally, and whether they were run here."""

COLUMNS = (
    "learns",
    "parts",
    "parameters",
    "training multiply-adds",
    "test error",
    "averaged",
    "over twin",
    "seeds",
    "known from",
)
"""Of the page's tables, after the name."""

HEAD = """# Leaderboard

What networks trained here, their end-to-end twins, and published ones reach on all training images. The page and its
plots are made by `python docs/tools/leaderboard.py` from `docs/results/leaderboard.json`.

![Test error against parameters](images/leaderboard/parameters.svg)

![Test error against multiply-adds of the whole training](images/leaderboard/training.svg)

A row in **bold** was run here. Test errors in %, means over seeds with their standard deviation. "Averaged": the logits
of each test image and its mirror image are averaged, of shifted ones too where it says so; the other column does not.
"Over twin": the error over that of the same network, trained end to end. Published figures are of other recipes, mostly
of more epochs; "known from" says how we know them: "code" is the authors' repository, "text" their text, "figure" a
plot or table of theirs, "claimed" the paper that this package rebuilds. An empty cell: not known, or not measured.
"""


def read_rows() -> list[dict[str, Any]]:
    """Read and check the rows.

    Returns:
        As they are stored.

    Raises:
        ValueError: For the first row that is not as it should be.
    """
    rows: list[dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf-8"))
    check_rows(rows)
    return rows


# -- checked -----------------------------------------------------------------------------------------------------------


def check_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows that the page could not stand for.

    Args:
        rows: As they are stored.

    Raises:
        ValueError: For the first that lacks something, says too much, or names a twin that is not there.
    """
    names = {(row.get("dataset"), row.get("name")): row for row in rows}
    if len(names) < len(rows):
        raise ValueError("two rows of one data set have one name; give each its own")
    for row in rows:
        _check_row(row)
        twin = row["twin"]
        if twin is None:
            continue
        other = names.get((row["dataset"], twin))
        if other is None or other["local"] or not row["local"]:
            raise ValueError(f"{row['name']!r} has twin={twin!r}, but a twin is the end-to-end row of a local one")


def _check_row(row: Mapping[str, Any]) -> None:
    name = row.get("name")
    if set(row) != set(KEYS):
        raise ValueError(f"{name!r} has other keys than it should: {sorted(set(row) ^ set(KEYS))}")
    if row["dataset"] not in DATA:
        raise ValueError(f"{name!r} has dataset={row['dataset']!r}; give one of {tuple(DATA)}")
    present, absent = (OF_RUNS, OF_PUBLISHED) if is_run(row) else (OF_PUBLISHED, OF_RUNS)
    for key in present:
        if not row[key]:
            raise ValueError(f"{name!r} has no {key}; a run needs {OF_RUNS}, a published figure {OF_PUBLISHED}")
    for key in absent:
        if row[key] is not None:
            raise ValueError(f"{name!r} has {key}={row[key]!r} beside {present[0]}; leave it None")
    if not is_run(row) and row["known"] not in KNOWN:
        raise ValueError(f"{name!r} has known={row['known']!r}; give one of {tuple(KNOWN)}")
    if not (row["test_errors"] or row["test_errors_flips"]):
        raise ValueError(f"{name!r} has no test error")
    if bool(row["views"]) != bool(row["test_errors_flips"]):
        raise ValueError(f"{name!r} has views={row['views']!r} and test_errors_flips={row['test_errors_flips']}")
    for key in ("test_errors", "test_errors_flips"):
        if is_run(row) and row[key] and len(row[key]) != len(row["seeds"]):
            raise ValueError(f"{name!r} has {len(row[key])} {key} of {len(row['seeds'])} seeds; give one a seed")


def is_run(row: Mapping[str, Any]) -> bool:
    """Whether a row was run here.

    Args:
        row: As stored.

    Returns:
        False of a published figure.
    """
    return row["source"] is None


# -- the page ----------------------------------------------------------------------------------------------------------


def page_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the page.

    Args:
        rows: As stored.

    Returns:
        Markdown.
    """
    parts = [HEAD]
    for dataset, title in DATA.items():
        chosen = sorted((row for row in rows if row["dataset"] == dataset), key=error_of)
        parts.append(f"## {title}\n\n{_table(chosen, rows)}")
    runs = [row for row in rows if is_run(row)]
    if runs:
        parts.append(f"## How to run them again\n\n{_commands(runs)}")
    return "\n".join(parts)


def error_of(row: Mapping[str, Any]) -> float:
    """Give the error that a row is compared by.

    Args:
        row: As stored.

    Returns:
        In %, the mean over seeds; of averaged views only where there is no other.
    """
    errors: list[float] = row["test_errors"] or row["test_errors_flips"]
    return sum(errors) / len(errors)


def _table(chosen: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    for row in chosen:
        lines.append(f"| {' | '.join(_cells(row, rows))} |")
    return "\n".join([*lines, ""])


def _cells(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [
        row["name"],
        "locally" if row["local"] else "end to end",
        _or_empty(row["parts"], "d"),
        _or_empty(row["parameters"], ","),
        _or_empty(row["training_multiply_adds"], ".2g"),
        _spread(row["test_errors"]),
        _spread(row["test_errors_flips"]),
        _over_twin(row, rows),
        _or_empty(len(row["seeds"]) or None, "d"),
        "this repository" if is_run(row) else f"{row['source']} ({row['known']})",
    ]
    if row["views"] == "flips_shifts":
        cells[6] += ", shifts too"
    if is_run(row):
        cells[0] = f"**{cells[0]}**"
    return cells


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _spread(errors: Sequence[float]) -> str:
    if not errors:
        return ""
    mean = sum(errors) / len(errors)
    if len(errors) == 1:
        return f"{mean:.2f}"
    deviation = (sum((error - mean) ** 2 for error in errors) / (len(errors) - 1)) ** 0.5
    return f"{mean:.2f} ± {deviation:.2f}"


def _over_twin(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    for other in rows:
        if (other["dataset"], other["name"]) == (row["dataset"], row["twin"]):
            return f"{error_of(row) / error_of(other):.2f}"
    return ""


def _commands(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| | command | commit | machine | hours a seed |", "|---|---|---|---|---:|"]
    for row in runs:
        cells = [row["name"], f"`{row['command']}`", row["commit"], row["machine"], f"{row['hours']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


# -- the plots ---------------------------------------------------------------------------------------------------------


def plot(rows: Sequence[Mapping[str, Any]], key: str, label: str) -> "Figure":
    """Draw errors against a cost, one panel a data set that has any.

    Args:
        rows: As stored.
        key: Of the cost in a row.
        label: Of its axis.

    Returns:
        The figure.
    """
    costed = [row for row in rows if row[key] is not None]
    datasets = [dataset for dataset in DATA if any(row["dataset"] == dataset for row in costed)]
    figure = new_figure(11, 1 + 4.2 * len(datasets))
    for axes, dataset in zip(figure.subplots(len(datasets), 1, squeeze=False)[:, 0], datasets, strict=True):
        _draw_panel(axes, [row for row in costed if row["dataset"] == dataset], key)
        axes.set_title(DATA[dataset], fontsize=10)
        axes.set_xlabel(label)
        axes.set_ylabel("test error (%)")
    handles = [figure.axes[0].plot([], [], **_look(place))[0] for place in range(len(LOOKS))]
    add_legend(figure, handles, list(LOOKS), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _look(place: int) -> dict[str, Any]:
    return {"marker": MARKERS[place], "color": COLOURS[place], "linewidth": 0, "markersize": 6}


def _draw_panel(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str) -> None:
    groups = list(LOOKS.values())
    for row in rows:
        axes.plot(row[key], error_of(row), **_look(groups.index((row["local"], is_run(row)))))
    axes.set_xscale("log")
    axes.set_xlim(*_limits([row[key] for row in rows]))
    axes.margins(y=0.12)
    low, high = axes.get_xlim()
    ticks = [figure * 10**power for power in range(3, 19) for figure in (1, 3)]
    put_ticks(axes.xaxis, [tick for tick in ticks if low <= tick <= high], _in_words)
    axes.grid(alpha=0.3, linewidth=0.5)
    _name_points(axes, rows, key)


def _limits(costs: Sequence[float]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room for names at both sides."""
    low, high = math.log10(min(costs)), math.log10(max(costs))
    room = max(high - low, 1.5)
    return float(10 ** (low - 0.48 * room)), float(10 ** (high + 0.38 * room))


def _in_words(number: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g} {letter}"
    return f"{number:g}"


LETTER = 0.006
"""Width of a letter of a name, as a share of the panel's."""


def _name_points(axes: "Axes", rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Name points beside each group that lies close together, one name below the other in their order.

    The first group has its names at the left, where nothing else is; the others at the right, and higher where they
    would reach the next group.
    """
    left, right = (math.log10(end) for end in axes.get_xlim())
    low, high = axes.get_ylim()
    groups = _close_together(rows, key, 0.07 * (right - left))
    for number, group in enumerate(groups):
        costs = [math.log10(row[key]) for row in group]
        names = [row["name"].replace(" end to end", "") for row in group]
        lift = 0.0
        if number == 0:
            column, side, end = min(costs) - 0.02 * (right - left), "right", (1, 0.5)
        else:
            column, side, end = max(costs) + 0.02 * (right - left), "left", (0, 0.5)
            reach = column + LETTER * max(map(len, names)) * (right - left)
            if number + 1 < len(groups) and reach > math.log10(groups[number + 1][0][key]):
                lift = 0.12 * (high - low)
        heights = _spaced([error_of(row) + lift for row in group], 0.04 * (high - low))
        for row, name, height in zip(group, names, heights, strict=True):
            line: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.4", "relpos": end}
            look: dict[str, Any] = {"fontsize": 7.5, "va": "center", "ha": side}
            ends: dict[str, Any] = {"arrowprops": line | {"shrinkA": 0, "shrinkB": 3}}
            axes.annotate(name, (row[key], error_of(row)), (10**column, height), **look, **ends)


def _close_together(rows: Sequence[Mapping[str, Any]], key: str, distance: float) -> list[list[Mapping[str, Any]]]:
    """Group rows whose costs follow each other closely on a logarithmic axis; each group in the order of its errors."""
    groups: list[list[Mapping[str, Any]]] = []
    for row in sorted(rows, key=lambda row: float(row[key])):
        if groups and math.log10(row[key] / groups[-1][-1][key]) < distance:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [sorted(group, key=error_of) for group in groups]


def _spaced(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights apart as little as it takes, by least squares.

    Args:
        heights: Where names should be.
        gap: What is between two of them at least.

    Returns:
        Where they are.
    """
    from sklearn.isotonic import IsotonicRegression

    steps = [gap * place for place in range(len(heights))]
    wanted = [height - step for height, step in zip(heights, steps, strict=True)]
    ascending = IsotonicRegression().fit_transform(range(len(wanted)), wanted)
    return [float(height) + step for height, step in zip(ascending, steps, strict=True)]


def main() -> None:
    """Write the page and its plots."""
    rows = read_rows()
    PAGE.write_text(page_of(rows), encoding="utf-8")
    PLOTS.mkdir(parents=True, exist_ok=True)
    write_figure(plot(rows, "parameters", "parameters"), PLOTS / "parameters.svg", "svg")
    training = plot(rows, "training_multiply_adds", "multiply-adds of the whole training")
    write_figure(training, PLOTS / "training.svg", "svg")


if __name__ == "__main__":
    main()
