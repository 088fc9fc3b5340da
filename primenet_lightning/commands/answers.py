"""Answers of ``primenet predict`` as lines, as CSV, and as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primenet_lightning.analysis.prediction import Prediction
from primenet_lightning.commands.printing import printable
from primenet_lightning.files import as_text, write_whole

SUFFIXES = (".csv", ".json")


def check_out(out: str) -> Path:
    """Refuse a file that answers cannot be written to, before anything is computed.

    Args:
        out: Its path.

    Returns:
        The same.

    Raises:
        ValueError: If it is neither CSV nor JSON.
        FileExistsError: If it is there.

    Example:
        >>> check_out("answers.xls")
        Traceback (most recent call last):
        ...
        ValueError: out=answers.xls has no format that is written; give a name that ends with .csv or .json
    """
    path = Path(out).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out={out} has no format that is written; give a name that ends with .csv or .json")
    if path.exists():
        raise FileExistsError(f"out={out} exists already and is not overwritten; give another name")
    return path


def line_of(prediction: Prediction) -> str:
    r"""Write an answer on a line.

    Args:
        prediction: Of a file that could be used.

    Returns:
        Path, and of each class its name and probability, with tabs between them; the exit, where images leave early.

    Example:
        >>> from primenet_lightning.analysis.prediction import Ranked
        >>> line_of(Prediction("a.png", "7", 0.9, ranking=(Ranked("7", 0.9), Ranked("1", 0.05))))
        'a.png\t7\t0.9000\t1\t0.0500'
    """
    words = [printable(prediction.path)]
    for label, probability in prediction.ranking:
        words += [printable(label), f"{probability:.4f}"]
    if prediction.exit is not None:
        words.append(f"exit {prediction.exit}")
    return "\t".join(words)


def write_answers(path: Path, predictions: Sequence[Prediction], top_k: int) -> Path:
    """Write answers into a file, which is whole or not there.

    Args:
        path: From `check_out`.
        predictions: One a file, also of those that could not be used.
        top_k: How many classes there are of each.

    Returns:
        The path.
    """
    if path.suffix.lower() == ".json":
        answers = [_as_data(prediction) for prediction in predictions]
        return write_whole(path, json.dumps(answers, indent=1, ensure_ascii=False) + "\n")
    return write_whole(path, _as_csv(predictions, top_k))


def _as_data(prediction: Prediction) -> dict[str, Any]:
    """For JSON: what there is of an answer."""
    if prediction.error is not None:
        return {"file": prediction.path, "error": prediction.error}
    data: dict[str, Any] = {
        "file": prediction.path,
        "label": prediction.label,
        "probability": prediction.probability,
        "top": [ranked._asdict() for ranked in prediction.ranking],
    }
    if prediction.exit is not None:
        data |= {"exit": prediction.exit, "multiply_adds": prediction.multiply_adds}
    return data


def _as_csv(predictions: Sequence[Prediction], top_k: int) -> str:
    heads = ["file", "label", "probability"]
    for place in range(2, top_k + 1):
        heads += [f"label_{place}", f"probability_{place}"]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*heads, "exit", "multiply_adds", "error"], lineterminator="\n")
    writer.writeheader()
    for prediction in predictions:
        row: dict[str, Any] = {"file": prediction.path, "exit": prediction.exit, "error": prediction.error}
        row["multiply_adds"] = prediction.multiply_adds
        for place, (label, probability) in enumerate(prediction.ranking, start=1):
            mark = "" if place == 1 else f"_{place}"
            row |= {f"label{mark}": label, f"probability{mark}": f"{probability:.6f}"}
        writer.writerow({name: as_text(value) for name, value in row.items()})
    return file.getvalue()
