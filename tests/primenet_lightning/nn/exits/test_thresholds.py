"""Shares, ratios and thresholds against a second computation, image by image."""

import math

import pytest
import torch

from primenet_lightning.nn.exits.thresholds import (
    anytime_exit,
    exit_shares,
    exits_taken,
    ratio_of_budget,
    thresholds_of_budget,
    thresholds_of_shares,
)

COSTS = [6.85, 14.33, 27.5, 41.67, 58.42]


def taken_one_by_one(confidence, thresholds):
    """A loop over images and exits."""
    taken = []
    for column in confidence.T.tolist():
        place = 0
        while place < len(column) - 1 and column[place] < thresholds[place]:
            place += 1
        taken.append(place)
    return taken


def spent_by_sorting(confidence, costs, shares):
    """The same shares by taking the surest images out of a list; no thresholds."""
    left, total, images = list(range(confidence.shape[1])), 0.0, confidence.shape[1]
    for place in range(len(costs) - 1):
        left.sort(key=lambda image, place=place: -confidence[place, image])
        count = math.floor(shares[place] * images + 1e-9)
        total, left = total + costs[place] * count, left[count:]
    return (total + costs[-1] * len(left)) / images


def test_the_ratio_spends_the_budget():
    for budget in (6.86, 10.0, 15.355, 29.7, 40.0, 58.41):
        ratio = ratio_of_budget(COSTS, budget)
        weights = [ratio**k for k in range(5)]
        mean = sum(w * c for w, c in zip(weights, COSTS, strict=True)) / sum(weights)
        assert mean == pytest.approx(budget, abs=1e-9)


def test_shares_of_exit_probability_a_half():
    """The paper's q = 0.5: the specification's figure, worked out there by another program."""
    assert sum(p * c for p, c in zip(exit_shares(0.5, 5), COSTS, strict=True)) == pytest.approx(15.355, abs=5e-4)
    assert exit_shares(1.0, 5) == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("images", [37, 4000])
@pytest.mark.parametrize("budget", [8.0, 15.355, 40.0])
def test_held_out_images_spend_the_budget(images, budget):
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(5, images, generator=generator, dtype=torch.float64)
    thresholds = thresholds_of_budget(confidence, COSTS, budget)
    taken = taken_one_by_one(confidence, thresholds)
    assert exits_taken(confidence, thresholds).tolist() == taken
    mean = sum(COSTS[place] for place in taken) / images
    shares = exit_shares(ratio_of_budget(COSTS, budget), 5)
    assert mean == pytest.approx(spent_by_sorting(confidence, COSTS, shares))
    assert budget - 1e-6 <= mean <= budget + 4 * (COSTS[-1] - COSTS[0]) / images
    for place in range(4):
        assert abs(taken.count(place) / images - shares[place]) < 1 / images
    assert abs(taken.count(4) / images - shares[4]) < 4 / images


def test_equally_sure_images_leave_together_and_none_is_lost():
    confidence = torch.full((3, 10), 0.5)
    thresholds = thresholds_of_budget(confidence, [1, 2, 3], 2.0)
    assert thresholds == [0.5, -math.inf, -math.inf]
    assert exits_taken(confidence, thresholds).tolist() == [0] * 10


def test_an_exit_with_fewer_images_than_its_share_lets_all_leave():
    """In public code nobody leaves then."""
    confidence = torch.tensor([[0.5] * 8 + [0.1, 0.2], [0.7] * 8 + [0.6, 0.8], [0.9] * 10])
    thresholds = thresholds_of_shares(confidence, [0.4, 0.4, 0.2])
    assert thresholds[:2] == [0.5, pytest.approx(0.6)]
    assert exits_taken(confidence, thresholds).tolist() == [0] * 8 + [1, 1]


def test_shares_without_a_single_image_keep_an_exit_closed():
    thresholds = thresholds_of_shares(torch.rand(3, 4), [0.2, 0.3, 0.5])
    assert thresholds[0] == math.inf
    assert thresholds[1] < 1


def test_the_ends_of_the_range_of_budgets():
    confidence = torch.rand(3, 6)
    assert exits_taken(confidence, thresholds_of_budget(confidence, [1, 2, 3], 1)).tolist() == [0] * 6
    for budget in (3, 100):
        assert exits_taken(confidence, thresholds_of_budget(confidence, [1, 2, 3], budget)).tolist() == [2] * 6
    assert [anytime_exit([1, 2, 3], budget) for budget in (1, 1.9, 2, 99)] == [0, 0, 1, 2]


def test_one_exit_is_where_all_leave():
    assert thresholds_of_budget(torch.rand(1, 3), [5], 5) == [-math.inf]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: thresholds_of_budget(torch.rand(2, 3), [1, 2], 0.5), r"budget=0\.5 is below 1, what an image costs"),
        (lambda: anytime_exit([2, 3], 1), "budget=1 is below 2"),
        (lambda: thresholds_of_budget(torch.rand(2, 3), [1, 2], math.nan), "budget=nan is below 1"),
        (lambda: thresholds_of_budget(torch.rand(3, 3), [1, 2], 1.5), r"costs=\[1, 2\] are 2 for 3 exits"),
        (lambda: thresholds_of_budget(torch.rand(2, 3), [2, 2], 2), r"costs=\[2, 2\] must rise from exit to exit"),
        (lambda: ratio_of_budget([1, 2], 2), "budget=2 must be between the costs of the first exit and the last, 1 a"),
        (lambda: thresholds_of_shares(torch.rand(2, 0), [0.5, 0.5]), "confidence has no images"),
        (lambda: thresholds_of_shares(torch.full((2, 1), math.nan), [0.5, 0.5]), "confidence holds NaN"),
        (lambda: thresholds_of_shares(torch.rand(2, 3), [1.0]), r"shares=\[1\.0\] are 1 for 2 exits"),
        (lambda: exits_taken(torch.rand(2, 3), [0.5]), r"thresholds=\[0\.5\] are 1 for 2 exits"),
        (lambda: exits_taken(torch.rand(2, 3), [math.nan, 0.5]), "hold NaN"),
        (lambda: exit_shares(0.0, 3), r"ratio=0\.0 must be above 0"),
    ],
)
def test_impossible_numbers_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
