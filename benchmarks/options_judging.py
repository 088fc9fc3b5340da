"""What `options.py` draws from, and how a case is judged."""

import inspect
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

from primenet_lightning.arguments import first_line

ALSO = {
    "image_size": ("larger images", "images of shape", "the network takes"),
    "in_shape": ("images of shape",),
    "kernel_sizes": ("kernel_size", "capsules"),
    "num_replicas": ("ranks",),
    "root": ("has no",),
    "trained": ("run folder", "checkpoint"),
    "run": ("run folder",),
    "resume": ("run folder",),
    "loss": ("local_loss",),
    "loss_options": ("local_loss_options",),
    "classifier": ("local_classifier",),
    "classifier_options": ("local_classifier_options",),
    "head_scheduler": ("of 'head'",),
    "paths": ("image files", "does not exist"),
}
"""What sentences may call arguments instead."""

SECONDS = 20
"""After so long a case counts as hung."""


class Verdict(NamedTuple):
    """What came of a case.

    Attributes:
        outcome: ``"trains"``, ``"refused"`` or ``"wrong"``.
        place: Where in the code; the same for cases of one kind.
        words: What was said.
    """

    outcome: str
    place: str = ""
    words: str = ""


def words_of(annotation: Any) -> list[Any]:
    """The words that an annotation names, at any depth."""
    words: list[Any] = []
    for argument in get_args(annotation):
        if isinstance(argument, str | int):
            words.append(argument)
        words += words_of(argument)
    return words


def parameters_of(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A constructor's parameters, and those of the base classes that it hands its keywords on to.

    Args:
        kind: A class.

    Returns:
        By name, with annotations as Python evaluates them. Lightning's and torch's own, behind a class of this
        package, are left out.
    """
    found: dict[str, inspect.Parameter] = {}
    for one in inspect.getmro(kind):  # type: ignore[arg-type]
        if "__init__" not in vars(one):
            continue
        if one is not kind and not one.__module__.startswith("primenet_lightning."):
            break  # Lightning's and torch's own arguments are theirs
        parameters = inspect.signature(vars(one)["__init__"], eval_str=True).parameters
        for name, parameter in parameters.items():
            if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found


def is_named(argument: str, sentence: str) -> bool:
    """Whether a sentence names an argument, or says it in words of its own."""
    words = [argument, *ALSO.get(argument, ())]
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sentence) for word in words if word)


@contextmanager
def quickly() -> Iterator[None]:
    """Break a case off that hangs."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def place_of(error: BaseException) -> str:
    """The last line of this package on the way to an error."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "primenet_lightning" in code.co_filename:
            place = f"{code.co_filename.rpartition('primenet_lightning/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{place or first_line(error)} {type(error).__name__}"
