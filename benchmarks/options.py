"""Give arguments of every kind to the package's classes: each trains a step, or is refused in a sentence.

    python benchmarks/options.py [--cases 5000] [--seed 0] [--kind classes] [--only NAME]

Each case takes small arguments with which a class works, and replaces one to three of them: by values of the wrong type
or sign, by numbers that are not finite, by names that there are and that there are not, by lists that are empty or too
long. The object then has to train a step on four images, or to do what else it is for, or to be refused by an error of
this package whose sentence names one of these arguments. One case in twenty is a run of ``primenet fit``, see
`options_command`. What does neither is made smaller, by giving arguments back their values, and printed once for each
place in the code. Sizes are bounded by 9. The last line is one JSON object; the command fails if there was such a case.
"""

import argparse
import logging
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from options_command import try_command
from options_judging import Verdict, is_named, parameters_of, place_of, quickly, words_of
from options_subjects import Made, Subject, new_folder, subjects
from timing import Bound, conclude, machine

from primenet_lightning.argument_types import fits
from primenet_lightning.commands.main import _sentence

BOUNDS = [Bound("wrong", "at most", 0.0)]

COMMAND_EVERY = 20
"""One case in so many is a run of the command."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 9, 0.0, 0.5, 1.5, -0.5, float("nan"), float("inf"), "", "x", "none", "auto"),
    *([], [1], [0, 1], [3, 5], [-1], (8, 8), [1.5, "x"], {}, {"x": 1}, {"depth": 2}, torch.tensor(2), b"x"),
)
"""What an argument may be given, beside the words that its annotation names."""


def draw(subject: Subject, moments: random.Random) -> dict[str, Any]:
    """Draw one to three arguments and their values."""
    parameters = parameters_of(subject.kind)
    changes: dict[str, Any] = {}
    for name in moments.sample(sorted(parameters), min(len(parameters), moments.randint(1, 3))):
        annotation = parameters[name].annotation
        values = [*VALUES, *(2 * words_of(annotation))]
        if moments.random() < 0.7:  # of the right type, at least
            values = [value for value in values if fits(value, annotation)] or values
        changes[name] = moments.choice(values)
    return changes


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
        with quickly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = arguments_of(subject, changes)
            subject.use(subject.kind(**arguments), arguments)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is not None and any(is_named(name, sentence) for name in changes):
            return Verdict("refused", words=sentence)
        return Verdict("wrong", place_of(error), f"{type(error).__name__}: {str(error)[:200]!r}")
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


def smallest(subject: Subject, changes: dict[str, Any], place: str) -> dict[str, Any]:
    """Give arguments back their values, as long as the case fails at the same place."""
    for name in sorted(changes):
        fewer = {other: value for other, value in changes.items() if other != name}
        if fewer:
            tried = verdict(subject, fewer)
            if tried.outcome == "wrong" and tried.place == place:
                changes = fewer
    return changes


def try_class(subject: Subject, moments: random.Random, places: set[str]) -> Verdict:
    """Try a case of a class, and print it if it fails at a new place."""
    changes = draw(subject, moments)
    one = verdict(subject, changes)
    if one.outcome == "wrong" and one.place not in places:
        places.add(one.place)
        changes = smallest(subject, changes, one.place)
        print(f"wrong: {subject.kind.__name__}({changes}) at {one.place}: {one.words}", flush=True)
    return one


def tried(cases: int, kind: str, only: str) -> Sequence[Subject | None]:
    """What each case is about; None is the command."""
    classes = [subject for subject in subjects() if only in subject.kind.__name__]
    order: list[Subject | None] = []
    for case in range(cases):
        is_command = kind == "command" or (kind == "all" and not only and case % COMMAND_EVERY == 0)
        order.append(None if is_command else classes[case % len(classes)])
    return order


def main() -> None:
    """Try all cases and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=("all", "classes", "command"), default="all")
    parser.add_argument("--only", default="", help="Classes with this in their names.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.chdir(new_folder())  # some cases write into the folder "x"
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    moments, counts, places = random.Random(options.seed), dict.fromkeys(("trains", "refused", "wrong"), 0), set[str]()
    order = tried(options.cases, options.kind, options.only)
    for subject in order:
        one = try_command(moments, places) if subject is None else try_class(subject, moments, places)
        counts[one.outcome] += 1
    figures: dict[str, float | str] = {"cases": options.cases, **counts, "places": len(places)}
    figures["of the command"] = order.count(None)
    conclude(figures | {"seed": options.seed, "device": machine("cpu")}, BOUNDS)


if __name__ == "__main__":
    main()
