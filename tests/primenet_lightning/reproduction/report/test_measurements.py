"""Statistics of what was measured, by other libraries and by simulation."""

import statistics

import numpy as np
import pytest
from made_up import made_up
from scipy.stats import binomtest, sem

from primenet_lightning.reproduction.report._finding import by_seed, paired
from primenet_lightning.reproduction.report._measurements import Measured, noise, wilson


@pytest.mark.parametrize(("wrong", "images"), [(58, 10_000), (0, 359), (359, 359), (7, 359)])
def test_wilsons_interval_is_scipys(wrong, images):
    expected = binomtest(wrong, images).proportion_ci(0.95, "wilson")
    assert wilson(100 * wrong / images, images) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-9)


def test_mean_and_spread_are_the_statistics_modules():
    values = (0.8, 0.82, 0.87)
    number = Measured(values)
    assert (number.mean, number.spread) == (statistics.fmean(values), statistics.stdev(values))
    assert Measured((1.0,)).spread is None
    assert Measured((1.0, float("nan"))).show() == "not finite (2)"


@pytest.mark.parametrize("times", [1.0, 1.05])
def test_noise_of_one_seed_holds_95_of_100_simulated_differences(times):
    random = np.random.default_rng(0)
    errors = [100 * random.binomial(400, share, 100_000) / 400 for share in (0.1, 0.2)]
    away = np.abs(errors[0] - times * errors[1] - (10 - times * 20))
    assert np.mean(away < noise(Measured((10.0,)), Measured((20.0,)), 400, times)) == pytest.approx(0.95, abs=0.005)


def test_noise_over_seeds_is_of_the_paired_differences():
    ours, theirs = (0.8, 1.9, 3.1), (1.0, 2.0, 3.5)
    expected = 1.959964 * sem(np.subtract(ours, theirs))
    assert noise(Measured(ours), Measured(theirs), None) == pytest.approx(expected)
    of_images = noise(Measured((statistics.fmean(ours),)), Measured((statistics.fmean(theirs),)), 359)
    both = noise(Measured(ours), Measured(theirs), 359)
    assert both**2 == pytest.approx(expected**2 + of_images**2)


def test_the_same_numbers_have_no_noise_over_seeds():
    assert noise(Measured((1.0, 2.0)), Measured((1.0, 2.0)), None) == 0
    assert noise(Measured((100.0,)), Measured((100.0,)), 359) == 0


def test_seeds_without_a_partner_are_left_out():
    assert paired({0: 1.0, 1: 2.0}, {2: 1.0}) == []
    assert paired({2: 1.0, 0: 3.0}, {0: 4.0, 2: 2.0, 1: 9.0}) == [Measured((3.0, 1.0)), Measured((4.0, 2.0))]


def test_errors_of_the_subset_of_svhn_are_not_found():
    results = made_up("svhn-subset")
    assert by_seed(results, "prime", "test_error") == {}
    assert by_seed(results, "prime", "extra", "routings", "vote") == {}
    assert by_seed(results, "prime", "cost", "parameters").keys() == {0, 1, 2}
