"""How rules come by their numbers: what is missing is said, and the claim cannot be tested."""

import math
from collections.abc import Sequence

from primenet_lightning.paper import SPLITS, SUBSET
from primenet_lightning.reproduction.report.measurements import Measured, by_seed, listed, paired
from primenet_lightning.reproduction.results import Result, Results


class CannotBeTested(Exception):
    """A claim that these results say nothing about; the message says why."""


def run_of(results: Results, part: str) -> list[Result]:
    """Find a part's results.

    Args:
        results: What was measured.
        part: Name of the part.

    Returns:
        One a seed.

    Raises:
        CannotBeTested: If it was not run.
    """
    if not results.of(part):
        raise CannotBeTested(f"part {part} was not run")
    return results.of(part)


def numbers_of(results: Results, parts: Sequence[str], field: str, *keys: str) -> list[Measured]:
    """Find a number of several parts.

    Args:
        results: What was measured.
        parts: Names of the parts.
        field: As of `by_seed`.
        *keys: Likewise.

    Returns:
        One a part, on the seeds that all of them have.

    Raises:
        CannotBeTested: If one is missing or not finite, or if no seed is common.
    """
    name = (field, *keys)[-1].replace("_", " ")
    numbers = []
    for part in parts:
        run_of(results, part)
        numbers.append(by_seed(results, part, field, *keys))
        if not numbers[-1]:
            raise CannotBeTested(f"part {part} has no {name}")
    pairs = paired(*numbers)
    if not pairs:
        raise CannotBeTested(f"parts {listed(parts)} have no seed in common")
    for part, number in zip(parts, pairs, strict=True):
        if math.isnan(number.mean):
            raise CannotBeTested(f"part {part} has a {name} that is not finite")
    return pairs


def errors_of(results: Results, *parts: str) -> list[Measured]:
    """Find the test errors of several parts.

    Args:
        results: What was measured.
        *parts: Names of the parts.

    Returns:
        In %, one a part, on the seeds that all of them have.

    Raises:
        CannotBeTested: Also of the subset of SVHN.
    """
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, of which no test error is given")
    return numbers_of(results, parts, "test_error")


def refuse_fewer_images(results: Results, part: str, than: str = "prime") -> None:
    """Refuse to compare a part with one that saw more.

    Args:
        results: What was measured.
        part: Name of the part.
        than: Name of the other.

    Raises:
        CannotBeTested: If it saw fewer training images.
    """
    few = max(result.images for result in run_of(results, part))
    many = max(result.images for result in run_of(results, than))
    if few < many:
        raise CannotBeTested(f"part {part} saw {few:,} training images, {than} {many:,}")


def refuse_digits(results: Results) -> None:
    """Refuse what depends on the size of the images.

    Args:
        results: What was measured.

    Raises:
        CannotBeTested: If that is another than the paper's.
    """
    if results.dataset == "digits":
        raise CannotBeTested("digits is no data set of the paper, and its images are smaller than theirs")


def refuse_other_data(results: Results) -> None:
    """Refuse what is no training on the paper's data.

    Args:
        results: What was measured.

    Raises:
        CannotBeTested: If the data are others, or not all were seen.
    """
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, and its test images are not SVHN's test split")
    if results.dataset not in SPLITS:
        raise CannotBeTested(f"{results.dataset} is no data set of the paper")
    there = SPLITS[results.dataset].train
    for result in (*results.of("prime"), *results.of("probe")):
        if not result.all_images:
            raise CannotBeTested(f"part {result.name} saw {result.images:,} of {there:,} training images")
