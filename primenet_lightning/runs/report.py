"""One self-contained page from a run folder."""

import csv
import io
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from primenet_lightning.checksums import is_damaged, read_text
from primenet_lightning.files import write_whole
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.page import inlined, render
from primenet_lightning.runs.summary import result_rows, title_of


class Caption(NamedTuple):
    """What is said of a figure.

    Attributes:
        title: Above it, and in the page's contents.
        text: Below it: what is drawn, and how it is read.
    """

    title: str
    text: str


CAPTIONS = {
    "losses": Caption(
        "Losses",
        "Loss of each capsule and of the head, over training batches, on a logarithmic axis. In training each point is "
        "averaged since the previous point. The total is the head's loss and, of each block, that of the capsule whose "
        "map goes on, or where all maps do, of the one with the least loss.",
    ),
    "error_rates": Caption(
        "Errors of the learners",
        "How often each capsule's own classifier, and the head, are wrong, in percent, on a logarithmic axis.",
    ),
    "accuracy": Caption("Accuracies of the learners", "How often each capsule's classifier, and the head, are right."),
    "routing": Caption(
        "Routing",
        "Left: the share of batches that were routed to each capsule, by epoch. Right: the margin, by which the least "
        "loss lies below the second, and how often another capsule was routed than in the batch before.",
    ),
    "tsne": Caption(
        "Learned features",
        "Validation images, placed by t-SNE so that images of similar features are neighbours; colour and marker are "
        "the true class. Only the numbers in the title are measured in feature space.",
    ),
    "feature_maps": Caption(
        "Feature maps",
        "Each row: an image, what each capsule of a block makes of it, and what the head says. Capsules whose maps go "
        "on to the next block are framed.",
    ),
    "confusion": Caption(
        "Confusion matrix",
        "Test images by their true class (rows) and the class that was predicted (columns).",
    ),
    "errors": Caption(
        "Worst errors",
        "The test images with the largest losses among those that were classified wrongly; above each its true class, "
        "an arrow, and the predicted class.",
    ),
}
"""Figures in the order of the page; others follow by name."""

WITHOUT_CAPSULES = {
    "losses": Caption(
        "Losses",
        "Loss of each part that learns by itself, and of the head, over training batches, on a logarithmic axis. In "
        "training each point is averaged since the previous point. The total is the sum.",
    ),
    "error_rates": Caption(
        "Errors of the learners",
        "How often each part's own classifier, and the head, are wrong, in percent, on a logarithmic axis.",
    ),
}
"""Of the figures that say something else where a network has no capsules."""

PROBE = Caption(
    "Phase 2",
    "Error and loss of a linear classifier on the learned features, by epoch. The dotted line is where it has "
    "converged.",
)
"""Of the figure of a probe, whose name begins so."""

NOTHING_ROUTED = Caption(
    "Least loss",
    "All maps go on, or each image takes its own, so that no batch is routed. Left: the share of batches in which each "
    "capsule has the least loss, by epoch. Right: the margin, by which that lies below the second, and how often it is "
    "another capsule's than in the batch before.",
)
"""Of the figure of routing where ``routing.csv`` has no share of batches routed."""

SHOWN = (".png", ".svg", ".gif")
"""Kinds of pictures that a page shows."""

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
        ValueError: If a file that it shows is damaged.
    """
    run = RunFolder.existing(run)
    summary = run.read_summary()
    run.check_metrics()
    page = render(
        "report.html.j2",
        title=_title(run, summary),
        name=run.path.name,
        summary=summary,
        results=_results(summary),
        figures=[_figure(path, summary) for path in _undamaged(_ordered(run.figures))],
        epochs=epoch_table(run.metrics),
        options=run.read_config(),
        config=shlex.quote(run.config.as_posix()),
    )
    return write_whole(run.report, page)


def _title(run: RunFolder, summary: Mapping[str, Any]) -> str:
    if not summary:
        return f"PrimeNet run {run.path.name}"
    return title_of(summary)


def _results(summary: Mapping[str, Any]) -> PageTable:
    if not summary:
        return PageTable()
    rows = result_rows(summary)
    rows.append(["training images per second", f"{summary['images_per_second']:,.0f}", ""])
    rows.append(["optimizer steps skipped (fp16)", f"{summary.get('skipped_steps', 0):,}", ""])
    rows += _routing(summary)
    heads = ["", "measured"]
    if "paper" in summary:
        return PageTable([*heads, "paper's claim"], rows)
    return PageTable(heads, [measured for *measured, _ in rows])


def _routing(summary: Mapping[str, Any]) -> list[list[str]]:
    """What a run hands on from block to block; nothing of a network that has no capsules."""
    if "routing_mode" not in summary:
        return []
    rows: list[list[str]] = []
    if "routing" in summary:
        rows.append(["routing at inference", str(summary["routing_mode"]), ""])
        rows += _shares("share of batches routed", summary["routing"])
    if "least_loss" in summary:
        rows.append(["what a block hands on", str(summary["routing_mode"]), ""])
        rows += _shares("share of batches with the least loss", summary["least_loss"])
    return rows


def _shares(what: str, shares: Any) -> list[list[str]]:
    """A row per capsule."""
    if isinstance(shares, list):
        shares = _named_as_in_0_1(shares)
    return [[f"{what}: {name}", f"{share:.2f}", ""] for name, share in shares.items()]


def _named_as_in_0_1(shares: Sequence[Sequence[float]]) -> dict[str, float]:
    """A summary of version 0.1 has shares by block, without names."""
    share_by_name: dict[str, float] = {}
    for block, shares_of_block in enumerate(shares):
        for capsule, share in enumerate(shares_of_block, start=1):
            share_by_name[f"block{block}, capsule {capsule} of {len(shares_of_block)}"] = share
    return share_by_name


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
        if path.suffix in SHOWN and path.is_file():
            pictures.append(path)
    return sorted(pictures, key=place)


def _undamaged(paths: Sequence[Path]) -> list[Path]:
    """The pictures that are as they were written; there is a warning of each of the others."""
    good: list[Path] = []
    for path in paths:
        if is_damaged(path):
            warnings.warn(f"{path} is damaged: the page is without it", stacklevel=3)
        else:
            good.append(path)
    return good


def _figure(path: Path, summary: Mapping[str, Any]) -> dict[str, str]:
    caption = CAPTIONS.get(path.stem, Caption(path.stem.replace("_", " "), ""))
    if summary and "routing_mode" not in summary:
        caption = WITHOUT_CAPSULES.get(path.stem, caption)
    if path.stem.startswith("probe"):
        caption = PROBE
    if path.stem == "routing":
        caption = _of_routing(path.with_suffix(".csv"))
    if path.suffix == ".gif":
        caption = Caption(f"{caption.title}, by epoch", caption.text)
    picture = inlined(path.read_bytes(), path.suffix.removeprefix("."))
    return {"id": path.name, "title": caption.title, "caption": caption.text, "picture": picture}


def _of_routing(path: Path) -> Caption:
    """What the figure of routing shows, by the columns of the table beside it; all that it may, without the table."""
    caption = CAPTIONS["routing"]
    if not path.is_file():
        return caption
    heads = path.read_bytes().partition(b"\n")[0]
    if b"share/" in heads:
        return caption
    if b"least_loss/" in heads:
        return NOTHING_ROUTED
    warnings.warn(f"{path} is damaged: the page does not say what was routed", stacklevel=2)
    return Caption(caption.title, f"Which of its figures these are is not known, since {path.name} is damaged.")


# -- epochs ------------------------------------------------------------------------------------------------------------


def epoch_table(path: Path) -> PageTable:
    """Make a table of a run's epochs: at most twenty, evenly chosen, the last one included.

    Args:
        path: ``metrics.csv``, which need not be there.

    Returns:
        Errors in %, losses in nats; without rows where nothing was logged.

    Raises:
        ValueError: If it is no table.
    """
    if not path.is_file():
        return PageTable()
    remedy = "delete it, and what was logged is lost"
    text = read_text(path, remedy)
    try:
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
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
            epoch = _number_of(line["epoch"])
            if epoch is not None:
                metrics_by_epoch.setdefault(epoch, {}).update(values)
    return metrics_by_epoch


def _number_of(epoch: str) -> int | None:
    """Which epoch it is; None where a crash cut the number short."""
    try:
        return int(float(epoch))
    except (ValueError, OverflowError):
        return None


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
