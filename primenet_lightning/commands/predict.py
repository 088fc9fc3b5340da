"""``primenet predict``: one line per file, class and probability, from the checkpoint alone."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.runs.folder import checkpoint_in


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Command line after ``predict``.

    Returns:
        0, or 1 if a file could not be used.
    """
    options = _parser().parse_args(list(args))
    checkpoint = checkpoint_in(options.ckpt)
    description = _description(options)

    from primenet_lightning.analysis.prediction import load_model, predict_files  # loads Lightning, which takes a while

    model = load_model(checkpoint, description)
    status = 0
    for prediction in predict_files(model, options.images, "stretch" if options.resize else None):
        if prediction.error is None:
            print(f"{printable(prediction.path)}\t{printable(prediction.label)}\t{prediction.probability:.4f}")
        else:
            print(f"error: {printable(prediction.error)}", file=sys.stderr)
            status = 1
    return status


def printable(text: str | None) -> str:
    r"""Write out what would end a line or a column, or would be an order to the terminal.

    Args:
        text: Names of classes and files may be anything.

    Returns:
        The same; what cannot be printed as Python writes it.

    Example:
        >>> printable("cat"), printable("a\tb\x1b[2J")
        ('cat', 'a\\tb\\x1b[2J')
    """
    letters: list[str] = []
    for letter in str(text):
        letters.append(letter if letter.isprintable() else repr(letter)[1:-1])
    return "".join(letters)


def _parser() -> CommandParser:
    parser = CommandParser(prog="primenet predict", description="Classify image files with a trained network.")
    parser.add_argument("--ckpt", type=str, required=True, help="Run folder or checkpoint file.")
    parser.add_argument(
        "--resize",
        action="store_true",
        help="Stretch pictures of another size to that of the training data, instead of refusing them.",
    )
    parser.add_argument(
        "--class_names",
        type=str | None,
        default=None,
        help="Names of the classes, in the order of their labels: cat,dog or a text file with one a line. Default: "
        "those in the checkpoint, or else the numbers.",
    )
    for name, what in (("mean", "Mean"), ("std", "Standard deviation")):
        parser.add_argument(
            f"--{name}",
            type=str | None,
            default=None,
            help=f"{what} that training normalised pixels (0 to 1) with, one for all channels or one for each: 0.5 or "
            "0.485,0.456,0.406. Needed if the network was trained by a DataLoader of your own.",
        )
    parser.add_argument("images", type=str, nargs="+", help="Image files, or folders of them.")
    return parser


def _description(options: Any) -> dict[str, Any]:
    """What the command line says of the data."""
    description: dict[str, Any] = {}
    if options.class_names is not None:
        description["class_names"] = _names(options.class_names)
    for name in ("mean", "std"):
        given = getattr(options, name)
        if given is not None:
            description[name] = _numbers(name, given)
    return description


def _names(given: str) -> list[str]:
    file = Path(given)
    text = file.read_text(encoding="utf-8").replace("\n", ",") if file.is_file() else given.strip("[]")
    return [name.strip() for name in text.strip(", \n").split(",")]


def _numbers(name: str, given: str) -> list[float]:
    try:
        return [float(number) for number in given.strip("[]() ").split(",")]
    except ValueError:
        raise ValueError(
            f"{name}={given!r} is no number; give one, or one for each channel: 0.485,0.456,0.406"
        ) from None
