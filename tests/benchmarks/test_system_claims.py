"""The verdicts on the systems of table 2, from rows that are made up."""

import math
import statistics

import pytest
import system_claims
from system_claims import Pair


def row(name, error, **more):
    return {"name": name, "errors": [error - 1, error + 1], "points": [], "curve": [], "fixed": [], "chosen": []} | more


@pytest.mark.parametrize(
    ("pair", "verdict"),
    [
        (Pair([24.0], [26.0]), "confirmed"),
        (Pair([26.0], [24.0]), "not confirmed"),
        (Pair([24.0], [25.0]), "too small to tell"),
        (Pair([1.0], [1.6]), "confirmed"),  # small errors have a small spread
        (Pair([23.9, 24.1], [25.9, 26.1]), "confirmed"),
        (Pair([20.0, 28.0], [27.0, 25.0]), "too small to tell"),  # seeds differ by more than the two
    ],
)
def test_a_difference_counts_beyond_two_standard_errors(pair, verdict):
    assert pair.verdict() == verdict


def test_a_claim_to_be_as_good_is_confirmed_where_nothing_tells_against_it():
    assert Pair([25.0], [24.5]).verdict(as_good_is_enough=True) == "confirmed"
    assert Pair([26.0], [24.0]).verdict(as_good_is_enough=True) == "not confirmed"


def test_the_standard_error_is_that_of_two_binomials_and_of_seeds():
    assert Pair([50.0], [50.0]).noise == pytest.approx(2 * 100 * math.sqrt(2 * 0.25 / 10_000))
    of_images = Pair([49.0, 51.0], [50.0, 50.0]).noise ** 2 - (2 * statistics.stdev([-1, 1])) ** 2 / 2
    assert of_images == pytest.approx(Pair([50.0], [50.0]).noise ** 2)


def test_rows_that_are_missing_are_not_judged():
    assert system_claims.judge([]) == []
    (judged,) = system_claims.judge([row("ONE", 30), row("ResNet-32", 28)])
    assert judged[0] == "ONE"
    assert judged[2:] == (30, 28, "not confirmed")


def test_exits_are_compared_in_the_mean():
    exits = [dict(name=f"exit {number}", error=error, multiply_adds=1) for number, error in ((1, 40), (2, 20))]
    better = [point | {"error": point["error"] - 5} for point in exits]
    rows = [row("MSDNet, equilibrium", 20, points=exits), row("IMTA", 1, points=better)]
    (judged,) = system_claims.judge(rows)
    assert judged[2:] == (25, 30, "confirmed")


def test_policies_are_compared_at_the_same_cost():
    widths = [dict(name="", error=error, multiply_adds=cost) for error, cost in ((50, 1e6), (40, 3e6))]
    own = [dict(setting=0.0, error=44, multiply_adds=2e6), dict(setting=1.0, error=0, multiply_adds=3e6)]
    (judged,) = system_claims.judge([row("RNP", 44, curve=own, points=widths)])
    assert judged[2:] == (44, 45, "too small to tell")
    own = [dict(setting=0.5, error=2, multiply_adds=1, steps=2.5)]
    (judged,) = system_claims.judge([row("DT-RAM", 2, fixed=[9.0, 4.0, 3.0], chosen=own)])
    assert judged[2:] == (2, 3.5, "confirmed")
    assert system_claims.judge([row("DT-RAM", 2, fixed=[9.0, 4.0], chosen=[None])]) == []
    # dearer than the whole network: beside that
    own = [dict(setting=0.0, error=44, multiply_adds=9e6)]
    (judged,) = system_claims.judge([row("RNP", 44, curve=own, points=widths)])
    assert judged[2:] == (44, 40, "not confirmed")


def test_leaving_early_is_compared_with_an_exit_of_its_cost():
    exits = [dict(name="", error=error, multiply_adds=cost) for error, cost in ((50, 1e6), (40, 3e6))]
    own = [dict(setting=0.5, error=40, multiply_adds=2e6)]
    (judged,) = system_claims.judge([row("MSDNet, sum", 44, curve=own, points=exits)])
    assert judged[2:] == (40, 45, "confirmed")
