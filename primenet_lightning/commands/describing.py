"""Options that commands share which predict: of the data, and of exits."""

from pathlib import Path
from typing import Any

from primenet_lightning.commands.parser import CommandParser


def add_description(parser: CommandParser) -> None:
    """Add the options ``--class_names``, ``--mean`` and ``--std``.

    Args:
        parser: Of the command.
    """
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


def add_early_exit(parser: CommandParser) -> None:
    """Add the option ``--early_exit``.

    Args:
        parser: Of the command.
    """
    parser.add_argument(
        "--early_exit",
        type=str | None,
        default=None,
        help="Let an image leave at the first exit whose largest probability reaches this: one threshold for all "
        "exits, or one for each but the last: 0.9,0.8. Exits are the local classifiers, or those that a "
        "network has anyway.",
    )


def description_in(options: Any) -> dict[str, Any]:
    """Read what the command line says of the data.

    Args:
        options: Of a parser that has the options of `add_description`.

    Returns:
        Some entries of `ImageDataModule.description`.
    """
    description: dict[str, Any] = {}
    if options.class_names is not None:
        description["class_names"] = _names(options.class_names)
    for name in ("mean", "std"):
        given = getattr(options, name)
        if given is not None:
            description[name] = numbers_in(name, given)
    return description


def _names(given: str) -> list[str]:
    file = Path(given)
    text = file.read_text(encoding="utf-8").replace("\n", ",") if file.is_file() else given.strip("[]")
    return [name.strip() for name in text.strip(", \n").split(",")]


PER_CHANNEL = "give one, or one for each channel: 0.485,0.456,0.406"


def numbers_in(name: str, given: str, remedy: str = PER_CHANNEL) -> list[float]:
    """Read numbers with commas between them.

    Args:
        name: Of the option.
        given: Its value.
        remedy: What would be right.

    Returns:
        The numbers.

    Raises:
        ValueError: If one is none.

    Example:
        >>> numbers_in("mean", "0.5,0.25")
        [0.5, 0.25]
    """
    try:
        return [float(number) for number in given.strip("[]() ").split(",")]
    except ValueError:
        raise ValueError(f"{name}={given!r} is no number; {remedy}") from None
