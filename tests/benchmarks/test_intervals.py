"""The intervals of ratios cover what they should."""

import math

import intervals
import numpy as np
import pytest


def test_equal_verdicts_have_a_ratio_of_one_without_width():
    right = np.random.default_rng(0).random((3, 500)) < 0.7
    assert intervals.paired_bootstrap(right, right) == (1.0, 1.0, 1.0)


def test_the_interval_of_one_seed_is_that_of_the_delta_method():
    generator = np.random.default_rng(1)
    hard = generator.random(4000) < 0.2
    local, twin = (hard & (generator.random(4000) < share) for share in (0.9, 0.7))
    # Var(log(a / b)) is about the variance over the images of a_i / a - b_i / b, over their number
    deviation = (local / local.mean() - twin / twin.mean()).std() / math.sqrt(4000)
    ratio, low, high = intervals.paired_bootstrap([~local], [~twin])
    assert ratio == pytest.approx(local.mean() / twin.mean())
    assert math.log(high / ratio) == pytest.approx(1.96 * deviation, rel=0.06)
    assert math.log(ratio / low) == pytest.approx(1.96 * deviation, rel=0.06)


def test_the_interval_covers_the_true_ratio_in_most_of_simulated_studies():
    generator = np.random.default_rng(2)
    covered = 0
    for study in range(200):
        # three seeds that differ by themselves, and images that are hard for both sides
        level = generator.normal(0.3, 0.01, size=(3, 1))
        hardness = generator.random(2000)
        wrong = [hardness + generator.normal(0, 0.05, size=(3, 2000)) < level * share for share in (1.2, 1.0)]
        _, low, high = intervals.paired_bootstrap(~wrong[0], ~wrong[1], draws=400, seed=study)
        covered += low <= 1.2 <= high
    assert covered >= 180


def test_verdicts_that_cannot_be_paired_are_refused():
    bootstrap = intervals.paired_bootstrap
    for local, twin in (([[True]], [[True], [False]]), ([[True, False]], [[False]]), ([], [])):
        with pytest.raises(ValueError, match="give verdicts on the same images"):
            bootstrap(local, twin)
    with pytest.raises(ValueError, match="twin makes no error"):
        bootstrap([[True, False]], [[True, True]])
