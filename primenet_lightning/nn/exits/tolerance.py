"""Thresholds that save the most at a loss of accuracy that is tolerated."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from primenet_lightning.nn.exits.costs import spent
from primenet_lightning.nn.exits.thresholds import LEAVES, STAYS, check_costs, exit_shares, thresholds_of_shares

TRIALS = 200
"""Thresholds that are tried of each kind."""


def thresholds_of_tolerance(confidence: Tensor, wrong: Tensor, costs: Sequence[float], tolerance: float) -> list[float]:
    """Find the thresholds of least mean cost at which held-out images are answered almost as well as by the last exit.

    Tried are the thresholds of 200 budgets, by `exit_shares`, and 200 that are the same at all exits. They are
    chosen for these very images: on others the loss may be larger, and is to be measured there.

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
    without = spent(confidence, wrong, costs, best)
    least = without.multiply_adds
    for thresholds in _candidates(confidence):
        result = spent(confidence, wrong, costs, thresholds)
        if result.error <= without.error + tolerance + 1e-9 and result.multiply_adds < least:
            best, least = thresholds, result.multiply_adds
    return best


def _candidates(confidence: Tensor) -> Iterator[list[float]]:
    """Thresholds that may be good: of shares as budgets have them, and the same ones everywhere."""
    exits = len(confidence)
    yield [LEAVES] * exits
    for step in range(1, TRIALS):
        shares = exit_shares(step / (TRIALS - step), exits)
        yield thresholds_of_shares(confidence, shares)
    if exits < 3:
        return  # one threshold, and the shares have gone through it
    sorted_confidence = confidence[:-1].flatten().sort().values
    places = torch.linspace(0, len(sorted_confidence) - 1, TRIALS).long()
    for threshold in sorted_confidence[places].tolist():
        yield [*[threshold] * (exits - 1), LEAVES]
