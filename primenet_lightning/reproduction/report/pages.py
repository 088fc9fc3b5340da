"""The report of a reproduction: one page, the same in Markdown, and the numbers as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primenet_lightning import paper
from primenet_lightning.files import write_whole
from primenet_lightning.reproduction._results import Results
from primenet_lightning.reproduction.report._for_programs import as_data
from primenet_lightning.reproduction.report._pictures import draw
from primenet_lightning.reproduction.report._remarks import findings, head_start, remarks
from primenet_lightning.reproduction.report._tables import tables
from primenet_lightning.reproduction.report._wording import capitalised, words
from primenet_lightning.reproduction.report.verdicts import ANSWERS, Verdict, judge
from primenet_lightning.runs.page import inlined, render

CAPTIONS = {
    "figure4": "Figure 4: feature maps and the choice among them",
    "figure5": "Figure 5: losses of the capsules and of the head",
    "figure6": "Figure 6: t-SNE of the features, PrimeNet beside ResNet-50",
    "figure7": "Figure 7: phase 2 beside nets of one scale",
}

AFTER = "table3"
"""The table that the figures follow."""


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
    content = _content(results, pictures)
    markdown = words().get_template("report.md.j2").render(content)
    files: dict[str, str | bytes] = {
        "report.html": render("report.html.j2", "primenet_lightning.reproduction.report", **content),
        "report.md": markdown.rstrip("\n") + "\n",
        "results.json": json.dumps(as_data(results), indent=1, sort_keys=True, allow_nan=False) + "\n",
    }
    for name, picture in pictures.items():
        files[f"figures/{name}.png"] = picture
    return [write_whole(out / name, data) for name, data in files.items()]


def _content(results: Results, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """What both pages say."""
    name = paper.TITLES.get(results.dataset, results.dataset)
    return {
        "title": f"PrimeNet on {name}: the paper's claims and what was measured",
        "remarks": remarks(results),
        "count": _count(judge(results)),
        "findings": findings(results),
        "tables": tables(results),
        "figures": [_figure(results, name, picture) for name, picture in pictures.items()],
        "figures_after": AFTER,
    }


def _count(verdicts: list[Verdict]) -> str:
    answers = [verdict.verdict for verdict in verdicts]
    counts = ", ".join(f"{answers.count(answer)} {answer}" for answer in ANSWERS.values())
    return f"Of {len(answers)} claims: {counts}."


def _figure(results: Results, name: str, picture: bytes) -> dict[str, str]:
    """A figure with what its caption leaves open."""
    note = ""
    if name == "figure7":
        note = f"{capitalised(head_start(results))}."
    return {"name": name, "caption": CAPTIONS[name], "note": note, "picture": inlined(picture, "png")}
