"""The report of a reproduction: one page, the same in Markdown, and the numbers as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import escape

from primenet_lightning import paper
from primenet_lightning.files import write_whole
from primenet_lightning.reproduction.report.measurements import ERRORS, Measured
from primenet_lightning.reproduction.report.pictures import draw
from primenet_lightning.reproduction.report.remarks import findings, remarks
from primenet_lightning.reproduction.report.tables import Table, tables
from primenet_lightning.reproduction.report.verdicts import Verdict, head_start, judge
from primenet_lightning.reproduction.results import PARTS, Result, Results
from primenet_lightning.runs.page import image, table, whole_page

CAPTIONS = {
    "figure4": "Figure 4: feature maps and the choice among them",
    "figure5": "Figure 5: losses of the capsules and of the head",
    "figure6": "Figure 6: t-SNE of the features, PrimeNet beside ResNet-50",
    "figure7": "Figure 7: phase 2 beside nets of one scale",
}

AFTER = "table3"
"""The table that the figures follow."""

WORDS = """
body { max-width: 76rem }
body > p, .remarks { max-width: 60rem }
.remarks { background: #f6f6f6; border-left: 4px solid #888; padding: .5rem 1rem; margin: 1rem 0 }
.remarks p { margin: .4rem 0 }
th:first-child, td:first-child { min-width: 9rem }
td { white-space: nowrap } td:first-child, .words td { white-space: normal }
.words td, .words th { text-align: left; vertical-align: top }
.words tr > :last-child:not(:nth-child(2)) { min-width: 24rem }
@media (max-width: 45rem) {
  .wide img { min-width: 40rem }
  .words tr:first-child { display: none }
  .words tr { display: block; border-bottom: 1px solid #888; padding: .5rem 0 }
  .words td, .words tr > :last-child:not(:nth-child(2)) { display: block; border: 0; padding: .1rem 0; min-width: 0 }
  .words td:first-child { font-weight: bold }
  .words td:empty { display: none }
  .words td:not(:first-child)::before { content: attr(data-head) ": "; color: #555 }
}
"""


def write_pages(results: Results, out: Path) -> list[Path]:
    """Write ``report.html``, ``report.md`` with ``figures/*.png``, and ``results.json``.

    All of them depend on the results alone: written again they are the same, byte by byte.

    Args:
        results: What was measured; any part may be missing.
        out: The folder; made if it is not there.

    Returns:
        The paths, the page's first.
    """
    pictures = draw(results)
    files: dict[str, str | bytes] = {
        "report.html": _html(results, pictures),
        "report.md": _markdown(results, pictures),
        "results.json": json.dumps(_numbers(results), indent=1, sort_keys=True, allow_nan=False) + "\n",
        **{f"figures/{name}.png": data for name, data in pictures.items()},
    }
    for name in ("", "figures") if pictures else ("",):
        (out / name).mkdir(parents=True, exist_ok=True)
    return [write_whole(out / name, data) for name, data in files.items()]


def _title(results: Results) -> str:
    return f"PrimeNet on {paper.TITLES.get(results.dataset, results.dataset)}: the paper's claims and what was measured"


def _count(verdicts: list[Verdict]) -> str:
    answers = ("confirmed", "not confirmed", "cannot be tested here")
    counts = ", ".join(f"{sum(v.verdict == answer for v in verdicts)} {answer}" for answer in answers)
    return f"Of {len(verdicts)} claims: {counts}."


def _html(results: Results, pictures: Mapping[str, bytes]) -> str:
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in remarks(results))
    parts = [f"<h1>{escape(_title(results))}</h1>", f'<div class="remarks">{said}</div>']
    parts.append(f"<p><b>{escape(_count(judge(results)))}</b></p>")
    parts += [f"<p>{escape(sentence)}</p>" for sentence in findings(results)]
    for made in tables(results):
        parts += [f"<h2>{escape(made.title)}</h2>", f"<p>{escape(made.note)}</p>"]
        parts.append(table(made.heads, made.rows, words=made.words))
        if made.key == AFTER:
            for name, data in pictures.items():
                parts.append(f"<h2>{escape(CAPTIONS[name])}</h2>")
                parts += [f"<p>{escape(note)}</p>" for note in _below(results, name)]
                parts.append(f'<div class="wide">{image(data, "png", CAPTIONS[name])}</div>')
    return whole_page(_title(results), parts, WORDS)


def _below(results: Results, name: str) -> list[str]:
    """What a figure's heading leaves open."""
    start = head_start(results)
    return [f"{start[0].upper()}{start[1:]}."] if name == "figure7" else []


def _markdown(results: Results, pictures: Mapping[str, bytes]) -> str:
    blocks = [f"# {_title(results)}"]
    blocks.append("\n".join(f"- {_cell(sentence)}" for sentence in remarks(results)))
    blocks.append(f"**{_count(judge(results))}**")
    blocks += [_cell(sentence) for sentence in findings(results)]
    for made in tables(results):
        blocks += [f"## {made.title}", _cell(made.note), markdown_table(made)]
        if made.key == AFTER:
            for name in pictures:
                blocks += [f"## {CAPTIONS[name]}", *map(_cell, _below(results, name))]
                blocks.append(f"![{CAPTIONS[name]}](figures/{name}.png)")
    return "\n\n".join(blocks) + "\n"


def markdown_table(made: Table) -> str:
    r"""Write a table in Markdown.

    Args:
        made: The table.

    Returns:
        Lines, numbers to the right.

    Example:
        >>> print(markdown_table(Table("sizes", "Sizes", "", ("", "a|b"), (("one", "1"),))))
        |  | a\|b |
        |---|---:|
        | one | 1 |
    """
    rule = "|---|" + ("---|" if made.words else "---:|") * (len(made.heads) - 1)
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (made.heads, *made.rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(text: str) -> str:
    """Text that Markdown takes for nothing else, on one line."""
    text = " ".join(text.split())
    for sign in "\\|*_`<>[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def _numbers(results: Results) -> dict[str, Any]:
    """All that the report says, for programs."""
    numbers: dict[str, Any] = _finite(
        {
            "settings": asdict(results.settings),
            "remarks": remarks(results),
            "findings": findings(results),
            "parts": {part: _part(results, found) for part in PARTS if (found := results.of(part))},
            "tables": [asdict(made) for made in tables(results)],
            "verdicts": [asdict(verdict) for verdict in judge(results)],
            "paper": {
                "test_errors": paper.TEST_ERRORS,
                "splits": {name: asdict(split) for name, split in paper.SPLITS.items()},
                "costs": [asdict(paper.PRIMENET_COST), asdict(paper.RESNET50_COST)],
                "quoted_errors": [asdict(quoted) for quoted in paper.QUOTED_ERRORS],
                "quoted_costs": [asdict(quoted) for quoted in paper.QUOTED_COSTS],
            },
        }
    )
    return numbers


LEFT_OUT = ("name", "seed", "curves")


def _part(results: Results, found: list[Result]) -> dict[str, Any]:
    """Mean, spread and values over the seeds of every number of a part; of what is no number, the first seed's."""
    hidden = ERRORS if results.dataset == paper.SUBSET else ()
    rows = [_flat({key: value for key, value in asdict(result).items() if key not in LEFT_OUT}) for result in found]
    numbers: dict[str, Any] = {"seeds": [result.seed for result in found]}
    for key in dict.fromkeys(key for row in rows for key in row):
        if not set(hidden).isdisjoint(key.split("/")) or "losses" in key.split("/"):
            continue
        values = [row[key] for row in rows if row.get(key) is not None]
        if not values:
            numbers[key] = None
        elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            number = Measured(tuple(map(float, values)))
            numbers[key] = {"mean": number.mean, "spread": number.spread, "n": len(values), "values": values}
        else:
            numbers[key] = values[0] if all(value == values[0] for value in values) else values
    return numbers


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Put nested mappings into one, with keys like ``"extra/routings/vote"``; the exits by their thresholds."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "exits" and isinstance(inner, list):
            inner = {f"threshold {leave['threshold']:g}": leave for leave in inner}
        flat |= _flat(inner, f"{before}{key}/") if isinstance(inner, dict) else {f"{before}{key}": inner}
    return flat


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for by null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
