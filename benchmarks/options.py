"""Give arguments of every kind to the package's classes: each trains a step, or is refused in a sentence.

    python benchmarks/options.py [--cases 5000] [--seed 0] [--only NAME]

Each case takes a small model that trains, and replaces one to three of its arguments: by values of the wrong type or
sign, by numbers that are not finite, by names that there are and that there are not, by lists that are empty or too
long. It then has to train a step on four images, or to be refused by an error of this package whose sentence names one
of these arguments. What does neither is made smaller, by giving arguments back their values, and printed once for each
place in the code. Sizes are bounded by 9. The last line is one JSON object; the command fails if there was such a case.
"""

import argparse
import inspect
import logging
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

import torch
from options_subjects import Made, Subject, new_folder, subjects
from timing import Bound, conclude, machine

from primenet_lightning.argument_types import fits
from primenet_lightning.commands.main import _sentence

BOUNDS = [Bound("wrong", "at most", 0.0)]
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 9, 0.0, 0.5, 1.5, -0.5, float("nan"), float("inf"), "", "x", "none", "auto"),
    *([], [1], [0, 1], [3, 5], [-1], (8, 8), [1.5, "x"], {}, {"x": 1}, {"depth": 2}, torch.tensor(2), b"x"),
)
"""What an argument may be given, beside the words that its annotation names."""

ALSO = {
    "image_size": ("larger images", "images of shape", "the network takes"),
    "in_shape": ("images of shape",),
    "kernel_sizes": ("kernel_size", "capsules"),
    "num_replicas": ("ranks",),
    "root": ("has no",),
    "trained": ("run folder", "checkpoint"),
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


def draw(subject: Subject, moments: random.Random) -> dict[str, Any]:
    """Draw one to three arguments and their values."""
    parameters = _parameters(subject.kind)
    changes: dict[str, Any] = {}
    for name in moments.sample(sorted(parameters), min(len(parameters), moments.randint(1, 3))):
        annotation = parameters[name].annotation
        values = [*VALUES, *(2 * words_of(annotation))]
        if moments.random() < 0.7:  # of the right type, at least
            values = [value for value in values if fits(value, annotation)] or values
        changes[name] = moments.choice(values)
    return changes


def _parameters(kind: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A constructor's parameters, and those of the base classes that it hands its keywords on to."""
    found: dict[str, inspect.Parameter] = {}
    for one in inspect.getmro(kind):  # type: ignore[arg-type]
        if "__init__" not in vars(one):
            continue
        if not one.__module__.startswith("primenet_lightning."):
            break  # Lightning's and torch's own arguments are theirs
        parameters = inspect.signature(vars(one)["__init__"], eval_str=True).parameters
        for name, parameter in parameters.items():
            if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found


def verdict(subject: Subject, changes: Mapping[str, Any]) -> Verdict:
    """Try a case.

    Args:
        subject: What is given arguments.
        changes: Those that are not as in its base.

    Returns:
        What came of it.
    """
    torch.manual_seed(0)
    try:
        with _quickly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = arguments_of(subject, changes)
            subject.use(subject.kind(**arguments), arguments)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is not None and any(_is_named(name, sentence) for name in changes):
            return Verdict("refused", words=sentence)
        return Verdict("wrong", _place(error), f"{type(error).__name__}: {str(error)[:200]!r}")
    return Verdict("trains")


def arguments_of(subject: Subject, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a case hands over.

    Args:
        subject: What is given arguments.
        changes: Those that are not as in its base.

    Returns:
        All arguments, those of the base made anew where use changes them.
    """
    arguments = {**subject.base, **changes}
    for name, value in arguments.items():
        if isinstance(value, Made):
            arguments[name] = value.make()
    return arguments


def _is_named(argument: str, sentence: str) -> bool:
    return any(word in sentence for word in (argument, *ALSO.get(argument, ())))


@contextmanager
def _quickly() -> Iterator[None]:
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


def _place(error: BaseException) -> str:
    """The last line of this package on the way to an error."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "primenet_lightning" in code.co_filename:
            place = f"{code.co_filename.rpartition('primenet_lightning/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{place} {type(error).__name__}"


def smallest(subject: Subject, changes: dict[str, Any], place: str) -> dict[str, Any]:
    """Give arguments back their values, as long as the case fails at the same place."""
    for name in sorted(changes):
        fewer = {other: value for other, value in changes.items() if other != name}
        if fewer:
            tried = verdict(subject, fewer)
            if tried.outcome == "wrong" and tried.place == place:
                changes = fewer
    return changes


def main() -> None:
    """Try all cases and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Classes with this in their names.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(new_folder())  # some cases write into the folder "x"
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    moments, counts, places = random.Random(options.seed), dict.fromkeys(("trains", "refused", "wrong"), 0), set[str]()
    tried = [subject for subject in subjects() if options.only in subject.kind.__name__]
    for case in range(options.cases):
        subject = tried[case % len(tried)]
        changes = draw(subject, moments)
        one = verdict(subject, changes)
        counts[one.outcome] += 1
        if one.outcome == "wrong" and one.place not in places:
            places.add(one.place)
            changes = smallest(subject, changes, one.place)
            print(f"wrong: {subject.kind.__name__}({changes}) at {one.place}: {one.words}", flush=True)
    figures: dict[str, float | str] = {"cases": options.cases, **counts, "places": len(places)}
    conclude(figures | {"seed": options.seed, "device": machine("cpu")}, BOUNDS)


if __name__ == "__main__":
    main()
