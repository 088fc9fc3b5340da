"""One self-contained page from a run folder."""

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primenet_lightning.files import write_whole
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.page import inlined, render
from primenet_lightning.runs.summary import result_rows

CAPTIONS = {
    "losses": "Loss of each capsule and of the head by training batch",
    "accuracy": "Accuracy of each capsule and of the head",
    "routing": "Which capsule was routed, by how much, and how often that changed",
    "tsne": "Learned features, embedded by t-SNE",
    "feature_maps": "Feature maps of the capsules, and the one routed",
    "confusion": "True and predicted classes of the test images",
    "errors": "Worst errors on the test images",
}
"""Figures in the order of the page; others follow by name."""

EPOCH_METRICS = ("val/error", "train/error", "val/loss/head", "train/epoch_loss/head", "train/epoch_loss/total")
"""What the table of epochs shows, as far as it was logged."""

MOST_EPOCHS = 20


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        heads: Of the columns.
        rows: Values, as many each.
    """

    heads: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = field(default_factory=list)


def write_report(run: RunFolder) -> Path:
    """Write ``report.html`` into a run folder: pictures inlined, no script, nothing from the network.

    Args:
        run: A run, finished or not.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: If the folder is no run's.
    """
    run = RunFolder.existing(run)
    summary = run.read_summary()
    page = render(
        "report.html.j2",
        title=_title(run, summary),
        name=run.path.name,
        summary=summary,
        results=_results(summary),
        figures=list(map(_figure, _ordered(run.figures))),
        epochs=epoch_table(run.metrics),
        options=run.config.read_text(encoding="utf-8"),
        config=shlex.quote(run.config.as_posix()),
    )
    return write_whole(run.report, page)


def _title(run: RunFolder, summary: Mapping[str, Any]) -> str:
    if not summary:
        return f"PrimeNet run {run.path.name}"
    return f"{summary.get('model', 'PrimeNet')} on {summary['dataset']}, seed {summary['seed']}"


def _results(summary: Mapping[str, Any]) -> PageTable:
    if not summary:
        return PageTable()
    rows = result_rows(summary)
    rows.append(["training images a second", f"{summary['images_per_second']:,.0f}", ""])
    rows.append(["optimizer steps skipped (fp16)", f"{summary.get('skipped_steps', 0):,}", ""])
    rows += _routing(summary)
    heads = ["", "measured"]
    if "paper" in summary:
        return PageTable([*heads, "paper's claim"], rows)
    return PageTable(heads, [measured for *measured, _ in rows])


def _routing(summary: Mapping[str, Any]) -> list[list[str]]:
    """How a run routes; nothing of a network that does not."""
    if "routing" not in summary:
        return []
    rows = [["routing at inference", str(summary["routing_mode"]), ""]]
    for index, shares in enumerate(summary["routing"]):
        rows.append([f"routing shares of block{index}", " / ".join(map("{:.2f}".format, shares)), ""])
    return rows


# -- figures -----------------------------------------------------------------------------------------------------------


def _ordered(folder: Path) -> list[Path]:
    """The figures: the known ones in the page's order, then the others by name."""
    order = list(CAPTIONS)

    def place(path: Path) -> tuple[int, str]:
        if path.stem in order:
            return order.index(path.stem), path.name
        return len(order), path.name

    pictures: list[Path] = []
    for path in folder.glob("*.*"):
        if path.suffix in (".png", ".gif") and path.is_file():
            pictures.append(path)
    return sorted(pictures, key=place)


def _figure(path: Path) -> dict[str, str]:
    caption = CAPTIONS.get(path.stem, path.stem.replace("_", " "))
    return {"caption": caption, "picture": inlined(path.read_bytes(), path.suffix.removeprefix("."))}


# -- epochs ------------------------------------------------------------------------------------------------------------


def epoch_table(path: Path) -> PageTable:
    """Make a table of a run's epochs: at most twenty, evenly chosen, the last one included.

    Args:
        path: ``metrics.csv``, which need not be there.

    Returns:
        Errors in %, losses in nats; without rows where nothing was logged.
    """
    if not path.is_file():
        return PageTable()
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    columns = [name for name in EPOCH_METRICS if lines and name in lines[0]]
    metrics_by_epoch = _by_epoch(lines, columns)
    rows: list[list[Any]] = []
    for epoch in _evenly(sorted(metrics_by_epoch)):
        metrics = metrics_by_epoch[epoch]
        rows.append([epoch, *(_number(metrics.get(name)) for name in columns)])
    return PageTable(["epoch", *map(_with_unit, columns)], rows)


def _by_epoch(lines: Sequence[Mapping[str, str]], columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """The last value of each column in each epoch; a line has values of some columns only."""
    metrics_by_epoch: dict[int, dict[str, str]] = {}
    for line in lines:
        values: dict[str, str] = {}
        for name in columns:
            if line.get(name):
                values[name] = line[name]
        if values and line.get("epoch"):
            epoch = int(float(line["epoch"]))
            metrics_by_epoch.setdefault(epoch, {}).update(values)
    return metrics_by_epoch


def _evenly(epochs: Sequence[int]) -> list[int]:
    count = min(MOST_EPOCHS, len(epochs))
    last = len(epochs) - 1
    chosen = {epochs[last - i * len(epochs) // count] for i in range(count)}
    return sorted(chosen)


def _with_unit(name: str) -> str:
    unit = "%" if "error" in name else "nats"
    return f"{name} ({unit})"


def _number(value: str | None) -> str:
    try:
        return f"{float(value):.4g}" if value else ""
    except ValueError:  # a crash cut the number short
        return ""
