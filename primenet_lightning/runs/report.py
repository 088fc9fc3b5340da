"""One self-contained page from a run folder."""

import base64
import csv
import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primenet_lightning.runs.folder import RunFolder, write_whole
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

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: #fff; overflow-wrap: anywhere }
th, td { overflow-wrap: normal }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
img { max-width: 100%; height: auto; border: 1px solid #ddd }
.wide { overflow-x: auto }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem }
"""

MOST_EPOCHS = 20


def write_report(run: RunFolder) -> Path:
    """Write ``report.html`` into a run folder: pictures inlined, no script, nothing from the network.

    Args:
        run: A run, finished or not.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: If the folder is no run's.
    """
    run = RunFolder.existing(run.path)
    path = run.path / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    title = f"PrimeNet on {summary['dataset']}, seed {summary['seed']}" if summary else f"PrimeNet run {run.path.name}"
    parts = [f"<h1>{escape(title)}</h1>", f"<p>Run folder <code>{escape(run.path.name)}</code></p>"]
    parts += _results(summary) if summary else ["<p>This run has not finished: there is no summary.json yet.</p>"]
    parts += [_figure(figure) for figure in _ordered(run.path / "figures")]
    parts += _epochs(run.path / "metrics.csv")
    options = run.config.read_text(encoding="utf-8")
    parts.append(f"<details><summary>Options (config.yaml)</summary><pre>{escape(options)}</pre></details>")
    parts.append(
        f"<p>Repeat it with <code>primenet fit --config {escape(shlex.quote(run.config.as_posix()))}</code></p>"
    )
    return write_whole(run.path / "report.html", whole_page(title, parts))


def escape(value: Any) -> str:
    """Turn a value into text that stands for itself in HTML.

    Args:
        value: Of any kind; its ``str`` is taken.

    Returns:
        The text, with ``&``, ``<``, ``>`` and quotes escaped.
    """
    return html.escape(str(value))


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], words: bool = False) -> str:
    """Write a table that scrolls where the page is too narrow for it.

    Args:
        heads: Of the columns.
        rows: Values, as many each.
        words: Whether the cells are sentences: then it has a class of that name, and each cell its column's head.

    Returns:
        HTML.
    """
    told = [f' data-head="{escape(name)}"' if words else "" for name in heads]
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{name}>{escape(value)}</td>" for name, value in zip(told, row, strict=True)) + "</tr>"
        for row in rows
    )
    kind = ' class="words"' if words else ""
    return f'<div class="wide"><table{kind}><tr>{head}</tr>{body}</table></div>'


def image(data: bytes, kind: str, caption: str) -> str:
    """Write a picture into the page itself.

    Args:
        data: Of the file.
        kind: ``"png"`` or ``"gif"``.
        caption: What is said where it is not seen.

    Returns:
        HTML.
    """
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(caption)}">'


def whole_page(title: str, parts: Sequence[str], style: str = STYLE) -> str:
    """Write a page: no script, nothing from the network.

    Args:
        title: Of the window.
        parts: HTML, one below the other.
        style: CSS.

    Returns:
        HTML in ASCII alone, which reads the same in whatever encoding it is written.
    """
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _results(summary: Mapping[str, Any]) -> list[str]:
    rows = result_rows(summary)
    rows.append(["training images a second", f"{summary['images_per_second']:,.0f}", ""])
    rows.append(["optimizer steps skipped (fp16)", f"{summary.get('skipped_steps', 0):,}", ""])
    rows.append(["routing at inference", str(summary["routing_mode"]), ""])
    for index, shares in enumerate(summary["routing"]):
        rows.append([f"routing shares of block{index}", " / ".join(f"{share:.2f}" for share in shares), ""])
    columns = 3 if "paper" in summary else 2
    heads = ["", "measured", "paper's claim"][:columns]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    commit = f" Commit {escape(summary['git_commit'])}." if summary.get("git_commit") else ""
    return [
        "<h2>Result</h2>",
        table(heads, [row[:columns] for row in rows]),
        "<p>Test error: measured once, on the checkpoint of least validation error, routed without labels unless "
        f"said otherwise. Versions: {escape(versions)}.{commit}</p>",
    ]


def _ordered(folder: Path) -> list[Path]:
    """The figures: the known ones in the page's order, then the others by name."""
    found = sorted(path for path in folder.glob("*") if path.suffix in (".png", ".gif") and path.is_file())
    known = list(CAPTIONS)
    return sorted(found, key=lambda path: known.index(path.stem) if path.stem in known else len(known))


def _figure(path: Path) -> str:
    caption = CAPTIONS.get(path.stem, path.stem.replace("_", " "))
    return f"<h2>{escape(caption)}</h2>{image(path.read_bytes(), path.suffix.removeprefix('.'), caption)}"


def _epochs(path: Path) -> list[str]:
    """A table of the epochs, at most twenty, evenly chosen, the last one included."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = ("val/error", "train/error", "val/loss/head", "train/epoch_loss/head", "train/epoch_loss/total")
    columns = [name for name in wanted if rows and name in rows[0]]
    epochs: dict[int, dict[str, str]] = {}
    for row in rows:
        if row.get("epoch") and any(row.get(name) for name in columns):
            epochs.setdefault(int(float(row["epoch"])), {}).update({name: row[name] for name in columns if row[name]})
    if not epochs:
        return []
    numbers = sorted(epochs)
    count = min(MOST_EPOCHS, len(numbers))
    chosen = sorted({numbers[len(numbers) - 1 - i * len(numbers) // count] for i in range(count)})
    body = [[epoch, *(_number(epochs[epoch].get(name)) for name in columns)] for epoch in chosen]
    units = {name: f"{name} ({'%' if 'error' in name else 'nats'})" for name in columns}
    return ["<h2>Epochs</h2>", table(["epoch", *(units[name] for name in columns)], body)]


def _number(value: str | None) -> str:
    try:
        return f"{float(value):.4g}" if value else ""
    except ValueError:  # a crash cut the number short
        return ""
