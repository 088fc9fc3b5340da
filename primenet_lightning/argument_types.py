"""Arguments of the wrong type, refused by the annotations of a constructor: before it begins, and in a sentence."""

import functools
import inspect
import operator
import types
from abc import ABCMeta
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from primenet_lightning.arguments import as_number, at_least

Fits = Callable[[Any], bool]
"""Whether a value can be taken."""


class ArgumentTypeError(ValueError, TypeError):
    """An argument of the wrong type; also the TypeError that Python would have raised later."""


class CheckedArguments(ABCMeta):
    """The class of classes whose constructors are given no argument of a wrong type.

    Arguments that a class has a better sentence for it names in ``_checked_by_itself``.

    It looks before the constructor runs: Lightning, which reads the constructor's variables, sees no difference.

    Example:
        >>> class Layer(metaclass=CheckedArguments):
        ...     def __init__(self, channels: int) -> None: ...
        >>> Layer("many")
        Traceback (most recent call last):
        ...
        primenet_lightning.argument_types.ArgumentTypeError: channels='many' cannot be taken; give a whole number
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse what does not fit, and make an object.

        Args:
            *args: Of the constructor.
            **kwargs: Of the constructor.

        Returns:
            The object.

        Raises:
            ValueError: For the first argument of another type.
        """
        args = tuple(map(as_number, args))
        kwargs = {name: as_number(value) for name, value in kwargs.items()}
        in_order: Sequence[Any] = args
        by_name: Mapping[str, Any] = kwargs
        for kind in cls.__mro__:
            if "__init__" not in vars(kind):
                continue
            constructor = _constructor_of(kind)
            if kind.__module__.startswith("primenet_lightning."):  # a user's annotations are his own business
                given = constructor.given(in_order, by_name)
                refuse_types(kind, given)
                refuse_counts(given)
                refuse_lengths(kind, given)
            if not constructor.hands_names_on:
                break
            in_order, by_name = constructor.left(in_order, by_name)
        return super().__call__(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, for whoever asks what the class takes, such as `help`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        _, *parameters = signature.parameters.values()
        return signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)


class _Constructor(NamedTuple):
    """What a constructor takes.

    Attributes:
        parameters: By name.
        places: Names of those that can be given by their place.
        hands_places_on: Whether it has ``*args``, for the constructor that follows.
        hands_names_on: Whether it has ``**kwargs``, for the same.
    """

    parameters: Mapping[str, inspect.Parameter]
    places: Sequence[str]
    hands_places_on: bool
    hands_names_on: bool

    def given(self, in_order: Sequence[Any], by_name: Mapping[str, Any]) -> dict[str, Any]:
        """Name arguments; defaults are left out, since they are right."""
        given: dict[str, Any] = {}
        for name, value in [*zip(self.places, in_order, strict=False), *by_name.items()]:
            if name not in self.parameters or value is not self.parameters[name].default:
                given[name] = value
        return given

    def left(self, in_order: Sequence[Any], by_name: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Tell which arguments go on to the constructor that follows."""
        places = in_order[len(self.places) :] if self.hands_places_on else ()
        names = {name: value for name, value in by_name.items() if name not in self.parameters}
        return places, names


@functools.cache
def _constructor_of(kind: type) -> _Constructor:
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    kinds = {parameter.kind for parameter in parameters.values()}
    places = [name for name, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return _Constructor(
        parameters,
        places=places[1:],  # without self
        hands_places_on=inspect.Parameter.VAR_POSITIONAL in kinds,
        hands_names_on=inspect.Parameter.VAR_KEYWORD in kinds,
    )


def refuse_types(kind: type, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments whose value is of no type that the constructor names.

    Args:
        kind: The class whose own constructor takes them; names that it does not know are left alone.
        arguments: By name.

    Raises:
        ArgumentTypeError: For the first.
    """
    hints = _hints(kind)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            raise ArgumentTypeError(f"{name}={value!r} cannot be taken; give {in_words(hints[name])}")


def refuse_counts(arguments: Mapping[str, Any]) -> None:
    """Refuse what no image, map or layer can have none of, and sizes that are not height and width.

    Args:
        arguments: By name, of types that fit.

    Raises:
        ValueError: For the first.

    Example:
        >>> refuse_counts({"map_size": (8, 0)})
        Traceback (most recent call last):
        ...
        ValueError: map_size=(8, 0) must be at least 1 pixel high and wide
    """
    for name, value in arguments.items():
        if name in COUNTS and isinstance(value, int):
            at_least(1, "", **{name: value})
        if name == "in_shape" and isinstance(value, list | tuple) and (not value or min(value) < 1):
            raise ValueError(f"in_shape={tuple(value)} is no shape; give channels, height and width, at least 1 each")
        if name in SIZES and isinstance(value, list | tuple):
            if len(value) != 2:
                raise ValueError(f"{name}={value} is no size; give height and width in pixels")
            if min(value) < 1:
                raise ValueError(f"{name}={value} must be at least 1 pixel high and wide")


def refuse_lengths(kind: type, arguments: Mapping[str, Any]) -> None:
    """Refuse tuples of another length than the constructor names.

    Args:
        kind: The class whose own constructor takes them.
        arguments: By name, of types that fit.

    Raises:
        ValueError: For the first.
    """
    hints = _hints(kind)
    for name, value in arguments.items():
        parts = get_args(hints.get(name))
        if get_origin(hints.get(name)) is not tuple or parts[-1] is Ellipsis or len(value) == len(parts):
            continue
        raise ValueError(f"{name}={value} has {len(value)} parts; give {in_words(hints[name])}")


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    try:
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # of a user's class, whose types are there for its type checker alone
        return {}
    for name in getattr(kind, "_checked_by_itself", ()):
        hints.pop(name, None)
    return hints


def fits(value: Any, annotation: Any) -> bool:
    """Tell whether a value is of a type that an annotation names.

    Args:
        value: Any. Numbers may be numpy's or tensors, lists may be tuples.
        annotation: As Python evaluates it.

    Returns:
        True also where the annotation is none that is looked at.

    Example:
        >>> fits(3, int), fits(3, float), fits(True, int), fits("3", int | None), fits([3, 5], Sequence[int] | int)
        (True, True, False, False, True)
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return any(_fits_choice(value, one) for one in arguments)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation in PLAIN:
        return PLAIN[annotation][0](value)
    if origin is tuple:
        return _fits_tuple(value, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and _fit_classes(value.values(), arguments[1])
    if isinstance(origin, type) and issubclass(origin, Collection):
        return _is_row(value) and all(fits(one, arguments[0]) for one in value)
    if origin is Callable or origin is type:
        return callable(value)
    if isinstance(annotation, type) and annotation is not Any and isinstance(value, BUILT_IN):
        return _is_of(value, annotation)  # any other object may be made to do
    return True


def _fit_classes(values: Iterable[Any], annotation: Any) -> bool:
    """Whether values of a mapping are of a class; what else is in one has sentences of its own."""
    return get_origin(annotation) is not None or all(fits(value, annotation) for value in values)


def _is_of(value: Any, kind: type) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol of this package, which cannot be asked, and which no built-in type follows
        return False


def _fits_choice(value: Any, choice: Any) -> bool:
    if type(value) is not type(choice):
        return False
    return isinstance(value, str) or bool(value == choice)  # unknown words have sentences of their own


def _fits_tuple(value: Any, arguments: Sequence[Any]) -> bool:
    if not _is_row(value):
        return False
    kinds = [kind for kind in arguments if kind is not Ellipsis]
    return all(any(fits(one, kind) for kind in kinds) for one in value)  # of another length: see Literal


def _is_row(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping) or getattr(value, "shape", None) == ():
        return False
    return isinstance(value, Iterable) and hasattr(value, "__len__")


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool) and getattr(value, "shape", ()) == ()


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's


COUNTS = ("in_channels", "num_classes", "classes", "num_features", "head_channels", "stride")
"""Arguments that are at least 1, whatever takes them."""

SIZES = ("image_size", "map_size", "picture_size")
"""Arguments that are height and width."""

BUILT_IN = (bool, int, float, complex, str, bytes, list, tuple, set, Mapping, type(None))
"""Types whose values are never taken for an object of a class."""

PLAIN: Mapping[Any, tuple[Fits, str]] = {
    int: (_is_whole, "a whole number"),
    float: (_is_number, "a number"),
    bool: (_is_truth, "True or False"),
    str: (lambda value: isinstance(value, str), "a text"),
    Path: (lambda value: isinstance(value, str | PathLike), "a path"),
}
"""Types that are looked at as such: whether a value is of one, and what would do."""


def in_words(annotation: Any) -> str:
    """Say what an annotation takes.

    Args:
        annotation: As Python evaluates it.

    Returns:
        As ``"a whole number or None"``.

    Example:
        >>> in_words(Literal["a", "b"] | Sequence[int] | None)
        "'a', 'b', a list of (a whole number) or None"
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        words = [in_words(one) for one in arguments]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Literal:
        return ", ".join(map(repr, arguments))
    if annotation is None or annotation is type(None):
        return "None"
    if annotation in PLAIN:
        return PLAIN[annotation][1]
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return f"({', '.join(in_words(one) for one in arguments)})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "options by name"
    if isinstance(origin, type) and issubclass(origin, Collection):
        return f"a list of ({in_words(arguments[0])})"
    if origin is Callable or origin is type:
        return "a class or a function"
    return str(getattr(annotation, "__name__", annotation))
