"""The tables of a report as plain strings: what was measured, and beside it what the paper claims."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from primenet_lightning import paper
from primenet_lightning.reproduction._results import PARTS, Result, Results
from primenet_lightning.reproduction.report._finding import by_seed, measured, paired
from primenet_lightning.reproduction.report._measurements import Measured, difference
from primenet_lightning.reproduction.report._remarks import by_images, leaked_labels
from primenet_lightning.reproduction.report._wording import between, listed, macros, written
from primenet_lightning.reproduction.report.verdicts import judge

EXIT_AT = 0.9
"""The threshold at which the network of several exits is tested."""

BUDGET_AT = 0.35
"""The share of the last exit's cost, at which MSDNet and IMTA also stand in tables 2 and 3."""

OWN_SETTING = {"rnp": 0.0, "dt_ram": 0.5}
"""The settings at which networks of dynamic cost are tested."""

SETTINGS = {
    "msdnet": "budget, a share of the last exit's cost",
    "imta": "budget, a share of the last exit's cost",
    "rnp": "balance",
    "dt_ram": "threshold",
}
"""What the settings of a curve are."""

NOT_RECORDED = "not recorded"

KEYS = (
    *("verdicts", "table1", "table2", "table3"),
    *("ablations", "inference", "shares", "probe", "exits", "curves", "settings"),
)
"""All tables, in the order of the report."""

OF_WORDS = ("verdicts", "settings")

BAR = "¦"
"""Stands between two cells of a row."""


@dataclass(frozen=True)
class Table:
    """A table, ready to be written; ``words`` tells whether its cells are sentences and not numbers."""

    key: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


def tables(results: Results) -> list[Table]:
    """Make all tables that have something to say, in the order of the report."""
    templates = macros(
        "tables",
        paper=paper,
        results=results,
        dataset=results.dataset,
        name=paper.TITLES.get(results.dataset, results.dataset),
        run=results.settings,
        PARTS=PARTS,
        parts=list(filter(results.of, PARTS)),
        measured=partial(measured, results),
        change=partial(_change, results),
        number=partial(_whole_number, results),
        row=_row,
        each=_each,
        judged=judge(results),
        groups=by_images(results),
        leaked=leaked_labels(results),
        routings_given=_names_in(results, "routings"),
        capsules=_names_in(results, "shares"),
        exits_by_threshold=_exits(results),
        at_exit=_cost_at_exit(results),
        curve_of={part: _curve(results, part) for part in SETTINGS},
        setting_of=SETTINGS,
        budget_at=BUDGET_AT,
        within=partial(_point, results, BUDGET_AT),
        taken={part: adds for part, at in OWN_SETTING.items() for _, adds in [_point(results, at, part)]},
        quoted=_quoted(results),
        conditions=_conditions(results),
    )
    made = [_read(key, getattr(templates, key)()) for key in KEYS]
    return [table for table in made if table.rows]


def _row(*cells: object) -> str:
    return BAR.join(map(str, cells))


def _read(key: str, text: str) -> Table:
    """Take a table from its template: title, note, heads and rows, a line each."""
    grid, words = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        if BAR in line:
            grid.append(tuple(map(str.strip, line.split(BAR))))
        else:
            words.append(line)
    title, *note = words
    heads, *rows = grid
    return Table(key, title, " ".join(" ".join(note).split()), heads, tuple(rows), key in OF_WORDS)


def _whole_number(results: Results, part: str, field: str) -> str:
    """A whole number that all seeds of a part should share; both ends if they do not."""
    return between([getattr(result, field) for result in results.of(part)])


def _change(results: Results, part: str, *way: str) -> str:
    """The difference of an error to phase 1's, seed by seed."""
    pair = paired(by_seed(results, part, *way), by_seed(results, "prime", "test_error"))
    if not pair:
        return ""
    ours, base = pair
    return difference(ours, base).show("+.2f")


def _each(shares: Measured) -> str:
    """Shares seed by seed, in %."""
    return ", ".join(f"{100 * share:.0f}" for share in shares.values)


def _names_in(results: Results, field: str) -> list[str]:
    """The names that the results of phase 1 have numbers for."""
    names: dict[str, None] = {}
    for result in results.of("prime"):
        names |= dict.fromkeys(result.extra.get(field) or {})
    return list(names)


Curve = list[tuple[float, Measured, Measured]]
"""Setting, error, and the mean cost of an image."""


def _exits(results: Results) -> Curve:
    """Of the network of several exits, by threshold."""
    return _over_seeds([result.extra.get("exits") or [] for result in results.of("multi_exit")], "threshold")


def _curve(results: Results, part: str) -> Curve:
    """Of a network of dynamic cost."""
    return _over_seeds([result.extra.get("curve") or [] for result in results.of(part)], "setting")


def _over_seeds(seeds: Sequence[Sequence[Mapping[str, float]]], setting: str) -> Curve:
    curve: Curve = []
    for points in zip(*seeds, strict=False):
        errors = Measured(tuple(float(point["error"]) for point in points))
        adds = Measured(tuple(float(point["multiply_adds"]) for point in points))
        curve.append((points[0][setting], errors, adds))
    return curve


def _point(results: Results, setting: float, part: str) -> tuple[Measured, Measured]:
    """Error and cost at a setting of a part's curve; nothing measured where it has none."""
    for there, errors, adds in _curve(results, part):
        if math.isclose(there, setting, abs_tol=1e-9):
            return errors, adds
    return Measured(), Measured()


def _quoted(results: Results) -> dict[str, str]:
    """The paper's errors of systems that were run here, by part, as printed."""
    quoted: dict[str, str] = {}
    for row in paper.QUOTED_ERRORS:
        if row.dataset == results.dataset and results.of(row.part):
            errors = ", ".join(written(error, "g") for error in row.errors)
            quoted[row.part] = errors if row.part != "one" or row.model == "ONE" else f"{errors} (as ITADN)"
    return quoted


def _cost_at_exit(results: Results) -> Measured:
    """What an image costs on average where the error of the network of several exits is taken."""
    for threshold, _, adds in _exits(results):
        if math.isclose(threshold, EXIT_AT):
            return adds
    return Measured()


def _conditions(results: Results) -> list[tuple[str, str]]:
    """Rows of what all parts have in common, or where they differ one each, and how each was trained."""
    rows = []
    tell: dict[str, Callable[[Result], str]] = {"device": lambda result: result.device, "versions": _versions}
    for name, told in tell.items():
        groups = _seeds_by(results, told)
        for text, parts in groups.items():
            seeds = [_with_seeds(results, part, seeds) for part, seeds in parts.items()]
            rows.append((name, text if len(groups) == 1 else f"{text}: {'; '.join(seeds)}"))
    for recipe, parts in _seeds_by(results, lambda result: result.recipe).items():
        rows.append((f"trained by {recipe}", "; ".join(map(PARTS.__getitem__, parts))))
    return rows


def _versions(result: Result) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))


def _seeds_by(results: Results, told: Callable[[Result], str]) -> dict[str, dict[str, list[int]]]:
    """Parts with their seeds, by what a result tells."""
    groups: dict[str, dict[str, list[int]]] = {}
    for part in PARTS:
        for result in results.of(part):
            groups.setdefault(told(result) or NOT_RECORDED, {}).setdefault(part, []).append(result.seed)
    return groups


def _with_seeds(results: Results, part: str, seeds: Sequence[int]) -> str:
    """A part, with its seeds where these are not all."""
    if len(seeds) == len(results.of(part)):
        return PARTS[part]
    return f"{PARTS[part]} (seed{'s' if len(seeds) > 1 else ''} {listed(list(map(str, seeds)))})"
