"""How numbers are looked up; rules say what is missing, and the claim cannot be tested."""

import math
from collections.abc import Sequence
from typing import Any

from primenet_lightning.paper import SPLITS, SUBSET
from primenet_lightning.reproduction._results import Result, Results
from primenet_lightning.reproduction.report._measurements import Measured
from primenet_lightning.reproduction.report._rule import CannotBeTested
from primenet_lightning.reproduction.report._wording import listed

ERRORS = ("test_error", "validation_error", "routings", "logistic_test_error", "phase1_test_error", "exits", "curve")
"""Fields of a result that say how many images are told wrongly."""


def by_seed(results: Results, part: str, field: str, *keys: str) -> dict[int, float]:
    """Look a number up in all results of a part, by seed; ``keys`` lead through mappings.

    Results that have no such number are left out. Errors on the subset of SVHN are never given.

    Example:
        >>> from primenet_lightning.reproduction._results import Settings
        >>> settings = Settings("digits", "quick", "compact", 1, 30, 20, 200, 32, "32-true")
        >>> one = Result("prime", 0, 30, 1294, True, "Adam", 1.7, 0.7, 359, extra={"routings": {"vote": 2.5}})
        >>> results = Results(settings, {"prime": [one]})
        >>> by_seed(results, "prime", "test_error"), by_seed(results, "prime", "extra", "routings", "vote")
        ({0: 1.7}, {0: 2.5})
    """
    if results.dataset == SUBSET and not {field, *keys}.isdisjoint(ERRORS):
        return {}
    values = {}
    for result in results.of(part):
        number = _number_of(result, field, keys)
        if number is not None:
            values[result.seed] = number
    return values


def _number_of(result: Result, field: str, keys: Sequence[str]) -> float | None:
    value: Any = getattr(result, field)
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return float(value) if isinstance(value, int | float) else None


def measured(results: Results, part: str, field: str, *keys: str) -> Measured:
    """Look a number up as `by_seed` does; nothing was measured where there is none."""
    return Measured(tuple(by_seed(results, part, field, *keys).values()))


def paired(*numbers: dict[int, float]) -> list[Measured]:
    """Keep of several numbers the seeds that all of them have, so that they can be compared seed by seed.

    It gives one each, all of the same seeds, and none if no seed is common.

    Example:
        >>> paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 5.0, 2: 6.0})
        [Measured(values=(1.0, 3.0)), Measured(values=(5.0, 6.0))]
    """
    common = sorted(set.intersection(*map(set, numbers)))
    if not common:
        return []
    return [Measured(tuple(map(number.__getitem__, common))) for number in numbers]


def run(results: Results, part: str) -> list[Result]:
    """Find a part's results."""
    if not results.of(part):
        raise CannotBeTested(f"part {part} was not run")
    return results.of(part)


def numbers(results: Results, parts: Sequence[str], field: str, *keys: str) -> list[Measured]:
    """Find a number of several parts, on the seeds that all of them have."""
    name = (field, *keys)[-1].replace("_", " ")
    each = []
    for part in parts:
        run(results, part)
        each.append(by_seed(results, part, field, *keys))
        if not each[-1]:
            raise CannotBeTested(f"part {part} has no {name}")
    pairs = paired(*each)
    if not pairs:
        raise CannotBeTested(f"parts {listed(parts)} have no seed in common")
    for part, number in zip(parts, pairs, strict=True):
        if math.isnan(number.mean):
            raise CannotBeTested(f"part {part} has a {name} that is not finite")
    return pairs


def errors(results: Results, *parts: str) -> list[Measured]:
    """Find the test errors of several parts, in %, likewise."""
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, of which no test error is given")
    return numbers(results, parts, "test_error")


def refuse_fewer_images(results: Results, part: str, than: str = "prime") -> None:
    """Refuse to compare a part with one that saw more."""
    few = max(result.images for result in run(results, part))
    many = max(result.images for result in run(results, than))
    if few < many:
        raise CannotBeTested(f"part {part} saw {few:,} training images, {than} {many:,}")


def refuse_digits(results: Results) -> None:
    """Refuse what depends on the size of the images."""
    if results.dataset == "digits":
        raise CannotBeTested("digits is no data set of the paper, and its images are smaller than theirs")


def refuse_other_data(results: Results) -> None:
    """Refuse what is no training on the paper's data."""
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, and its test images are not SVHN's test split")
    if results.dataset not in SPLITS:
        raise CannotBeTested(f"{results.dataset} is no data set of the paper")
    there = SPLITS[results.dataset].train
    for result in (*results.of("prime"), *results.of("probe")):
        if not result.all_images:
            raise CannotBeTested(f"part {result.name} saw {result.images:,} of {there:,} training images")
