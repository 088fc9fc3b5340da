"""Options as they stand on a command line, before any parser has seen it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class GivenOption(NamedTuple):
    """An option as it stands on the command line.

    Attributes:
        name: With its dashes.
        value: What it is given.
        start: Place of the argument that names it.
        end: Place of the first argument after it.
    """

    name: str
    value: str
    start: int
    end: int


def given_options(args: Sequence[str]) -> Iterator[GivenOption]:
    """Find the options of a command line, as ``--option value`` or ``--option=value``.

    Args:
        args: The command line.

    Yields:
        Those that have a value, in order.
    """
    for start, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        if equals:
            yield GivenOption(name, value, start, start + 1)
        elif start + 1 < len(args):
            yield GivenOption(name, args[start + 1], start, start + 2)


def given_option(name: str, args: Sequence[str]) -> GivenOption | None:
    """Find one option of a command line.

    Args:
        name: With its dashes.
        args: The command line.

    Returns:
        The first of that name that has a value; None where there is none.

    Example:
        >>> given_option("--run", ["fit", "--run", "runs/first", "--figures=false"])
        GivenOption(name='--run', value='runs/first', start=1, end=3)
    """
    for option in given_options(args):
        if option.name == name:
            return option
    return None
