"""Thresholds that save the most at a loss of accuracy that is tolerated."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from primenet_lightning.nn.exits.costs import spent
from primenet_lightning.nn.exits.thresholds import (
    LEAVES,
    STAYS,
    check_costs,
    exit_shares,
    exits_taken,
    thresholds_of_shares,
)

TRIALS = 200
"""Thresholds that are tried of each kind."""


def thresholds_of_tolerance(confidence: Tensor, wrong: Tensor, costs: Sequence[float], tolerance: float) -> list[float]:
    """Find the thresholds of least mean cost at which held-out images are answered almost as well as by the last exit.

    From strict to loose are tried the thresholds of 200 shares of images (`exit_shares`), and 200 that are the same at
    all exits, each up to the first at which the loss and one standard error of it exceed the tolerance: what is chosen
    for some images would else lose more on others.

    Args:
        confidence: Of each exit on the held-out images, ``(exits, images)``, from `confidences`.
        wrong: Whether each exit's answer is wrong, ``(exits, images)``.
        costs: Of an image that leaves at each exit, rising.
        tolerance: Points of error, in %, that may be lost against the last exit; 0 for none.

    Returns:
        One threshold an exit; where nothing is saved at that tolerance, all images go to the last exit.

    Raises:
        ValueError: If the tolerance is negative or NaN, or costs and confidences do not fit.

    Example:
        >>> sure = torch.tensor([[0.9, 0.8, 0.6, 0.5], [1.0, 1.0, 1.0, 1.0]])
        >>> wrong = torch.tensor([[False, False, True, True], [False, False, False, False]])
        >>> round(thresholds_of_tolerance(sure, wrong, costs=[10, 30], tolerance=0)[0], 2)
        0.8
    """
    check_costs(costs)
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} must be at least 0, in points of error")
    best = [*[STAYS] * (len(costs) - 1), LEAVES]
    least = float(costs[-1])
    for family in (_of_shares(confidence), _of_one_threshold(confidence)):
        for thresholds in family:
            if _loss(confidence, wrong, thresholds) > tolerance + 1e-9:
                break
            multiply_adds = spent(confidence, wrong, costs, thresholds).multiply_adds
            if multiply_adds < least:
                best, least = thresholds, multiply_adds
    return best


def _loss(confidence: Tensor, wrong: Tensor, thresholds: Sequence[float]) -> float:
    """Points of error lost against the last exit, image by image, and one standard error of them."""
    taken = exits_taken(confidence, thresholds)
    lost = 100 * (wrong.gather(0, taken[None])[0].double() - wrong[-1].double())
    return float(lost.mean() + lost.std(correction=0) / math.sqrt(len(lost)))


def _of_shares(confidence: Tensor) -> Iterator[list[float]]:
    """From those at which almost nobody leaves early to those at which all do."""
    exits = len(confidence)
    for step in range(1, TRIALS):
        yield thresholds_of_shares(confidence, exit_shares((TRIALS - step) / step, exits))
    yield [LEAVES] * exits


def _of_one_threshold(confidence: Tensor) -> Iterator[list[float]]:
    """The same threshold at all exits, falling."""
    exits = len(confidence)
    if exits < 3:
        return  # with one threshold the shares have gone through it
    falling = confidence[:-1].flatten().sort(descending=True).values
    for place in torch.linspace(0, len(falling) - 1, TRIALS).long().tolist():
        yield [*[float(falling[place])] * (exits - 1), LEAVES]
