"""``primenet predict``: classes and probabilities of image files, as lines, CSV or JSON."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primenet_lightning.commands.describing import add_description, add_early_exit, description_in, numbers_in
from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.commands.printing import printable
from primenet_lightning.runs.folder import checkpoint_in

if TYPE_CHECKING:
    from primenet_lightning.analysis.prediction import Prediction
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
    from primenet_lightning.analysis.prediction import predict_files  # loads Lightning, which takes a while
    from primenet_lightning.commands.answers import check_out, line_of, write_answers

    out = None if options.out is None else check_out(options.out)
    fit = _fit(options)
    model = model_of(options)
    early = early_exit_of(model, options.early_exit)
    answers = predict_files(model, options.images, fit, early, options.batch_size, options.top_k)
    predictions: list[Prediction] = []
    for prediction in _with_bar(answers, options.images, options.out is not None):
        predictions.append(prediction)
        if prediction.error is not None:
            print(f"error: {printable(prediction.error)}", file=sys.stderr)
        elif out is None:
            print(line_of(prediction))
    if out is not None:
        print(write_answers(out, predictions, options.top_k))
    return _sum_up(predictions, early)


def _sum_up(predictions: "Sequence[Prediction]", early: "EarlyExit | None") -> int:
    """Say what it took, and how many files could not be used."""
    spent = [prediction.multiply_adds for prediction in predictions if prediction.multiply_adds is not None]
    if early is not None and spent:
        mean, full = sum(spent) / len(spent) / 1e6, early.full_cost / 1e6
        print(f"{mean:.2f} million multiply-adds an image, where the whole network takes {full:.2f}", file=sys.stderr)
    return int(any(prediction.error is not None for prediction in predictions))


def model_of(options: Any) -> "LocalLearner":
    """Load the network that ``--model`` or ``--ckpt`` names.

    Args:
        options: Of a parser that has the options of `add_model` and of `add_description`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If both or none of the two are given, or one is wrong.
        FileNotFoundError: If there is no such checkpoint.
    """
    if (options.ckpt is None) == (options.model is None):
        raise ValueError(
            f"a trained network is needed, and one alone: give --ckpt RUN or --model NAME of a pretrained network "
            f"(given: ckpt={options.ckpt}, model={options.model})"
        )
    description = description_in(options)
    if options.model is not None:
        if description:
            given = ", ".join(f"--{name}" for name in description)
            raise ValueError(f"{given} cannot be changed of model={options.model}, which knows its data; leave it out")
        return _without_code(options.model)
    checkpoint = checkpoint_in(options.ckpt)
    from primenet_lightning.analysis.prediction import load_model

    return load_model(checkpoint, description)


def _without_code(name: str) -> "LocalLearner":
    """A network of this package, or of a folder that ``save_pretrained`` wrote."""
    from primenet_lightning.models.pretrained import Pretrained
    from primenet_lightning.models.shipped import pretrained, pretrained_names

    if name not in pretrained_names() and Path(name).is_dir():
        return Pretrained.from_pretrained(name).float()
    return pretrained(name)


def add_model(parser: CommandParser) -> None:
    """Add the options ``--ckpt`` and ``--model``.

    Args:
        parser: Of the command.
    """
    parser.add_argument("--ckpt", type=str | None, default=None, help="Run folder or checkpoint file.")
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="Instead of --ckpt: a pretrained network of this package, such as mnist-deep, or a folder that "
        "save_pretrained wrote.",
    )


def _fit(options: Any) -> Any:
    """How pictures are brought to the network's size; None is as in training."""
    if options.resize and options.fit is not None:
        raise ValueError(f"resize=True means fit='stretch', and fit={options.fit!r} is given; leave either out")
    return "stretch" if options.resize else options.fit


def _with_bar(predictions: "Iterable[Prediction]", paths: Sequence[str], writes: bool) -> "Iterator[Prediction]":
    """Show how far it is, where there is a terminal on which no answers appear that would say so."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not writes):
        yield from predictions
        return
    from rich.console import Console
    from rich.progress import Progress

    # answers that go through a pipe are not for the bar's console
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield from progress.track(predictions, total=count_files(paths), description="files")


def count_files(paths: Sequence[str]) -> int:
    """Count what is going to be answered.

    Args:
        paths: Files, folders and patterns.

    Returns:
        Files, and paths that stand for none.

    Example:
        >>> count_files(["no.png", "no/such/*.png"])
        2
    """
    from primenet_lightning.datamodules.image_files import list_pictures
    from primenet_lightning.datamodules.pictures import ImageFileError

    count = 0
    for path in paths:
        try:
            count += len(list_pictures(path))
        except ImageFileError:
            count += 1
    return count


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


def _parser() -> CommandParser:
    parser = CommandParser(prog="primenet predict", description="Classify image files with a trained network.")
    add_model(parser)
    parser.add_argument(
        "--fit",
        type=str | None,
        default=None,
        help="How pictures are brought to the size of the training data: stretch, crop (to the middle), pad (black "
        "bars), or digit (one digit, made light on black, as MNIST's are). Default: as in training, and of a "
        "pretrained network as its card says.",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="The same as --fit stretch.",
    )
    parser.add_argument("--top_k", type=int, default=1, help="How many classes are told of each picture.")
    parser.add_argument(
        "--out", type=str | None, default=None, help="File for the answers, .csv or .json, instead of lines."
    )
    parser.add_argument("--batch_size", type=int, default=32, help="How many pictures are classified at once.")
    add_early_exit(parser)
    add_description(parser)
    parser.add_argument("images", type=str, nargs="+", help="Image files, folders of them, or patterns.")
    return parser
