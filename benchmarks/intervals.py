"""Errors over seeds: their mean and spread, and the ratio of two sides with its interval."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A ratio and its 95 % interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_bootstrap(
    local: Sequence[Sequence[bool]], twin: Sequence[Sequence[bool]], draws: int = 10_000, seed: int = 0
) -> Interval:
    """Estimate the ratio of two mean test errors, and a 95 % interval, by resampling images and seeds.

    Each draw takes test images with replacement, the same for both sides and for all seeds, and seeds with
    replacement, the same for both sides: an image that is hard for all, or a split that is bad for both, is no
    difference between them. The limits are the 2.5th and 97.5th percentile of the draws' ratios. Of few seeds the
    resampling knows too little of their spread: among S it finds (S - 1) / S of their variance.

    Args:
        local: Whether each test image was classified correctly, one sequence a seed.
        twin: The same of the other side, of the same seeds and images in the same order.
        draws: How many.
        seed: Of the draws.

    Returns:
        Error of ``local`` over error of ``twin``.

    Raises:
        ValueError: If the two do not have the same seeds and images, or ``twin`` makes no error.

    Example:
        >>> right = [[True, False, True, False]]
        >>> paired_bootstrap(right, right)
        Interval(ratio=1.0, low=1.0, high=1.0)
    """
    shapes = [sorted({len(verdicts) for verdicts in side}) for side in (local, twin)]
    if len(local) != len(twin) or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise ValueError(
            f"local has {len(local)} seeds of {shapes[0]} images and twin {len(twin)} of {shapes[1]}; give verdicts on "
            "the same images for the same seeds"
        )
    # (2, seeds, images)
    wrong = ~np.array([local, twin], dtype=bool)
    if not wrong[1].any():
        raise ValueError("twin makes no error on any image, so that there is no ratio; give harder images")
    seeds, images = wrong.shape[1:]
    # images with the same verdicts throughout are interchangeable: only how many of each kind are drawn matters
    kinds, counts = np.unique(wrong.reshape(2 * seeds, images), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(images, counts / images, size=draws)
    errors = (drawn @ kinds.T.astype(np.int64)).reshape(draws, 2, seeds)
    chosen = generator.integers(seeds, size=(draws, 1, seeds))
    sums = np.take_along_axis(errors, chosen, axis=2).sum(2)
    # draws in which nobody errs say nothing, those in which the twin alone does not are infinite
    sums = sums[sums.any(1)]
    ratios = np.where(sums[:, 1] > 0, sums[:, 0] / np.maximum(sums[:, 1], 1), np.inf)
    low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(wrong[0].mean() / wrong[1].mean()), float(low), float(high))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Give the mean and the sample standard deviation, None of one value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
