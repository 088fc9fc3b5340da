"""What arguments are refused for, and parts that are chosen by name: what does not fit is said in a sentence."""

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Part = TypeVar("Part")


def at_least(least: float, unit: str = "", **arguments: float) -> None:
    """Refuse numbers that are too small.

    Args:
        least: The smallest number that will do.
        unit: What is counted, and what else the sentence should say: ``"batch"``, ``"epoch, or None for the end"``.
        **arguments: Numbers by the name of their argument.

    Raises:
        ValueError: For the first that is smaller, or is not a number.

    Example:
        >>> at_least(1, "block", depth=0)
        Traceback (most recent call last):
        ...
        ValueError: depth=0 must be at least 1 block
    """
    for name, value in arguments.items():
        if not value >= least:
            raise ValueError(f"{name}={value} must be at least {least} {unit}".rstrip())


def whole_number(least: int, **arguments: Any) -> int:
    """Take a whole number of any library: Python's, numpy's or a tensor of one.

    Args:
        least: The smallest number that will do.
        **arguments: One number by the name of its argument.

    Returns:
        Python's.

    Raises:
        ValueError: If it is no whole number, or too small.

    Example:
        >>> import numpy as np
        >>> whole_number(2, num_classes=np.int64(3))
        3
    """
    ((name, value),) = arguments.items()
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number")
    at_least(least, "", **{name: number})
    return number


def as_number(value: Any) -> Any:
    """Give a number of numpy, or a tensor of one number, as Python's own.

    Args:
        value: Of any type.

    Returns:
        The same where it is no such number.

    Example:
        >>> import numpy as np
        >>> as_number(np.int64(8)), as_number("8")
        (8, '8')
    """
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def plain(value: Any) -> Any:
    """Give numbers and arrays of numpy as Python's own, also inside of lists, tuples and dictionaries.

    Args:
        value: Of any type.

    Returns:
        The same where nothing of numpy is in it.

    Example:
        >>> import numpy as np
        >>> plain({"channels": np.int64(8), "sizes": (np.array([3, 5]), "same")})
        {'channels': 8, 'sizes': ((3, 5), 'same')}
    """
    import numpy as np  # which commands without a network do not need

    value = as_number(value)
    if isinstance(value, np.ndarray):
        return plain(tuple(value.tolist()))
    if type(value) is dict:
        return {key: plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value


def first_line(error: BaseException) -> str:
    r"""Say in one line what went wrong.

    Args:
        error: What was raised.

    Returns:
        The first line of its message, or the name of its kind where it has none.

    Example:
        >>> first_line(ValueError("too large\nmore of it")), first_line(KeyboardInterrupt())
        ('too large', 'KeyboardInterrupt')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def with_options(
    choice: str,
    name: str,
    maker: Callable[..., Part],
    options: Mapping[str, Any] | None,
    given_as: str | None = None,
) -> Part:
    """Make a part with the options that a user gave.

    Args:
        choice: The argument that named the part.
        name: The part's name.
        maker: Makes it; its parameters are the options that there are.
        options: By name; None for none.
        given_as: The argument that they are in; None is ``<choice>_options``.

    Returns:
        The part.

    Raises:
        ValueError: If the part has no such option, or cannot take its value.

    Example:
        >>> def halve(of: int = 2) -> float:
        ...     return of / 2
        >>> with_options("part", "half", halve, {"of": 3})
        1.5
    """
    options = dict(options or {})
    argument = given_as or f"{choice}_options"
    parameters = inspect.signature(maker).parameters.values()
    known = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(
            f"{argument} has {unknown[0]!r}, which {choice}={name!r} does not take; it takes "
            f"{', '.join(known) or 'none'}"
        )
    try:
        return maker(**options)
    except TypeError as error:
        raise ValueError(f"{argument}={options} do not fit {choice}={name!r}: {error}") from error
