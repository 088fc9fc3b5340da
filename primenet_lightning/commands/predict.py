"""``primenet predict``: one line per file, class and probability, from the checkpoint alone."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from primenet_lightning.commands.describing import add_description, add_early_exit, description_in, numbers_in
from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.runs.folder import checkpoint_in

if TYPE_CHECKING:
    from primenet_lightning.serving.early_exit import EarlyExit
    from primenet_lightning.training.learner import LocalLearner


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Command line after ``predict``.

    Returns:
        0, or 1 if a file could not be used.
    """
    options = _parser().parse_args(list(args))
    checkpoint = checkpoint_in(options.ckpt)
    description = description_in(options)

    from primenet_lightning.analysis.prediction import load_model, predict_files  # loads Lightning, which takes a while

    model = load_model(checkpoint, description)
    early = early_exit_of(model, options.early_exit)
    status, spent = 0, []
    for prediction in predict_files(model, options.images, "stretch" if options.resize else None, early):
        if prediction.error is not None:
            print(f"error: {printable(prediction.error)}", file=sys.stderr)
            status = 1
            continue
        line = f"{printable(prediction.path)}\t{printable(prediction.label)}\t{prediction.probability:.4f}"
        if prediction.multiply_adds is not None:
            line += f"\texit {prediction.exit}"
            spent.append(prediction.multiply_adds)
        print(line)
    if early is not None and spent:
        mean, full = sum(spent) / len(spent) / 1e6, early.full_cost / 1e6
        print(f"{mean:.2f} million multiply-adds an image, where the whole network takes {full:.2f}", file=sys.stderr)
    return status


def early_exit_of(model: "LocalLearner", given: str | None) -> "EarlyExit | None":
    """Make what ``--early_exit`` asks for.

    Args:
        model: A trained one.
        given: Thresholds, as they were given.

    Returns:
        The model with its exits; None where nothing is asked for.
    """
    if given is None:
        return None
    from primenet_lightning.serving.early_exit import EarlyExit

    thresholds = numbers_in("early_exit", given, "give one threshold, or one an exit but the last: 0.9,0.8")
    return EarlyExit(model, thresholds[0] if len(thresholds) == 1 else thresholds)


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
    add_early_exit(parser)
    add_description(parser)
    parser.add_argument("images", type=str, nargs="+", help="Image files, or folders of them.")
    return parser
