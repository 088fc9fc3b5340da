"""``primenet predict``: one line per file, class and probability, from the checkpoint alone."""

import sys
from collections.abc import Sequence

from primenet_lightning.commands.describing import add_description, description_in
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
    description = description_in(options)

    from primenet_lightning.analysis.prediction import load_model, predict_files  # loads Lightning, which takes a while

    model = load_model(checkpoint, description)
    status = 0
    for prediction in predict_files(model, options.images, "stretch" if options.resize else None):
        if prediction.error is None:
            print(f"{prediction.path}\t{prediction.label}\t{prediction.probability:.4f}")
        else:
            print(f"error: {prediction.error}", file=sys.stderr)
            status = 1
    return status


def _parser() -> CommandParser:
    parser = CommandParser(prog="primenet predict", description="Classify image files with a trained network.")
    parser.add_argument("--ckpt", type=str, required=True, help="Run folder or checkpoint file.")
    parser.add_argument(
        "--resize",
        action="store_true",
        help="Stretch pictures of another size to that of the training data, instead of refusing them.",
    )
    add_description(parser)
    parser.add_argument("images", type=str, nargs="+", help="Image files, or folders of them.")
    return parser
