"""Each rule on both sides of its threshold, and where it has nothing to judge."""

import statistics
from dataclasses import replace

import pytest
from made_up import COST, extras, made_up, parts
from scipy.stats import binomtest

from primenet_lightning.reproduction.results import Results
from primenet_lightning.reproduction.verdicts import RULES, Measured, judge, wilson

NO, YES, UNTESTED = "not confirmed", "confirmed", "cannot be tested here"


def verdict(number, results):
    """By the place among the rules, counted as in the list below."""
    return judge(results)[number]


ERROR, BASELINES, COSTS, RESNET, LOSSES, CLUSTERS, CONVERGES = range(7)
ACCURACY, ADAPTS, ARGMIN, RETAINS, SAVES, SCALES = range(7, len(RULES))


def one(part, **values):
    return made_up(seeds=1, change={part: values})


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


def test_test_error_is_phase_2s_against_wilsons_lower_end():
    highest = 0.72  # 0.58 lies just inside the interval of 0.72 % of 10,000 images, and outside that of 0.74 %
    assert wilson(highest, 10_000)[0] < 0.58 < wilson(0.74, 10_000)[0]
    assert verdict(ERROR, one("probe", test_error=highest)).verdict == YES
    wrong = verdict(ERROR, one("probe", test_error=0.74))
    assert wrong.verdict == NO
    for said in ("0.74 %", "10,000 test images", "phase 1 alone 0.80 %", "compact size", "30 + 15 epochs instead of"):
        assert said in wrong.why
    assert (wrong.claimed, wrong.where, wrong.measured) == ("0.58 %", "Table 2", "0.74 % (1)")


def test_test_error_is_phase_1s_without_a_probe():
    found = verdict(ERROR, made_up(without=("probe",), seeds=1, change={"prime": {"test_error": 0.5}}))
    assert found.verdict == YES
    assert found.why.startswith("Phase 1 has 0.50 %")


@pytest.mark.parametrize(
    ("results", "why"),
    [
        (made_up("digits"), "Digits is no data set of the paper"),
        (made_up("svhn-subset"), "This is a subset of SVHN"),
        (one("prime", all_images=False, images=10_000), "Part prime saw 10,000 of 60,000 training images"),
        (one("probe", all_images=False, images=10_000), "Part probe saw 10,000 of 60,000 training images"),
        (made_up(without=("prime",)), "Part prime was not run"),
    ],
)
def test_where_the_papers_errors_cannot_be_tested(results, why):
    for number in (ERROR, BASELINES):
        found = verdict(number, results)
        assert found.verdict == UNTESTED
        assert found.why.startswith(why)
        assert not found.measured


@pytest.mark.parametrize(
    ("dataset", "error", "expected"),
    [
        ("mnist", 1.11, YES),
        ("mnist", 1.13, NO),
        ("cifar10", 6.31, YES),
        ("cifar10", 6.33, NO),  # better than RNP alone
        ("svhn", 1.72, YES),
        ("svhn", 1.74, NO),
    ],
)
def test_baselines_as_quoted(dataset, error, expected):
    results = made_up(dataset, seeds=1, change={"probe": {"test_error": error}})
    assert verdict(BASELINES, results).verdict == expected


@pytest.mark.parametrize(
    ("parameters", "adds", "expected"),
    [(418_000, 2_750_000, YES), (420_000, 2_000_000, NO), (100_000, 2_760_000, NO)],
)
def test_cost_keeps_to_both_numbers(parameters, adds, expected):
    results = one("prime", cost=COST | dict(parameters=parameters, multiply_adds_inference=adds))
    found = verdict(COSTS, results)
    assert found.verdict == expected
    assert "compact size" in found.why


@pytest.mark.parametrize(("adds", "expected"), [(400e6, YES), (380e6, NO), (83e6, NO)])
def test_cost_of_resnet50(adds, expected):
    results = one("resnet50", cost=COST | dict(parameters=23.5e6, multiply_adds_inference=adds))
    assert verdict(RESNET, results).verdict == expected


def test_costs_on_images_of_another_size():
    assert [verdict(number, made_up("digits")).verdict for number in (COSTS, RESNET)] == [UNTESTED] * 2


def test_losses_fall_each_for_itself():
    rising = extras(0)
    rising["losses"]["k5"] = rising["losses"]["k5"][::-1]
    found = verdict(LOSSES, one("prime", extra=rising))
    assert (verdict(LOSSES, made_up()).verdict, found.verdict) == (YES, NO)
    assert "k5 (seed 0)" in found.why
    rising["losses"]["k5"] = [float("nan")] * 60
    assert verdict(LOSSES, one("prime", extra=rising)).verdict == NO
    assert verdict(LOSSES, one("prime", extra={})).verdict == UNTESTED


@pytest.mark.parametrize(("silhouette", "expected"), [(0.3, YES), (0.32, NO), (None, UNTESTED)])
def test_clusters(silhouette, expected):
    assert verdict(CLUSTERS, one("resnet50", extra=dict(separation=dict(silhouette=silhouette)))).verdict == expected


def test_clusters_of_a_resnet_that_saw_less():
    found = verdict(CLUSTERS, one("resnet50", images=2_000))
    assert (found.verdict, found.why) == (UNTESTED, "Part resnet50 saw 2,000 training images, prime 54,000.")


@pytest.mark.parametrize(("converged", "epochs", "expected"), [(9, 15, YES), (10, 15, NO), (3, 10, UNTESTED)])
def test_phase_2_converges(converged, epochs, expected):
    results = one("probe", epochs=epochs, extra=dict(epochs_until_converged=converged))
    assert verdict(CONVERGES, results).verdict == expected


def test_accuracy_above_one_scale_after_ten_epochs_and_at_the_end():
    high, late = [50.0] * 9 + [99.5] * 20, [50.0] * 28 + [99.5]
    for curve, expected in ((high, YES), (late, NO), ([99.5] * 28 + [50.0], NO)):
        assert verdict(ACCURACY, one("probe", curves=dict(train_accuracy=curve))).verdict == expected
    found = verdict(ACCURACY, one("probe", curves=dict(train_accuracy=[99.5] * 3)))
    assert found.why.startswith("After 3 epochs")
    assert verdict(ACCURACY, one("probe", curves={})).verdict == UNTESTED
    assert verdict(ACCURACY, one("one_scale_5", images=2_000)).verdict == UNTESTED


@pytest.mark.parametrize(("second", "expected"), [(0.05, YES), (0.04, NO)])
def test_selection_adapts_with_every_seed(second, expected):
    prime = parts()["prime"]
    prime[1].extra["shares"] = dict(k3=second, k5=1 - second, k7=0.0)
    assert verdict(ADAPTS, Results(made_up().settings, {"prime": prime})).verdict == expected


def test_argmin_has_to_win_by_more_than_the_standard_error():
    # each spread is 0.02, so that the standard error is 0.02 * sqrt(2 / 3) = 0.0163
    for ahead, expected in ((0.017, YES), (0.016, NO)):
        found = parts()
        behind = [replace(result, test_error=result.test_error + ahead) for result in found["prime"]]
        found |= {"local_fixed": behind}
        assert verdict(ARGMIN, Results(made_up().settings, found)).verdict == expected
    assert verdict(ARGMIN, one("local_random", test_error=0.79)).verdict == NO
    assert verdict(ARGMIN, one("local_random", test_error=0.81)).verdict == YES


@pytest.mark.parametrize(("twin", "expected"), [(0.77, YES), (0.75, NO)])
def test_local_learning_retains_within_a_twentieth(twin, expected):
    results = made_up(without=("end_to_end_mean",), seeds=1, change={"end_to_end_concatenate": {"test_error": twin}})
    found = verdict(RETAINS, results)
    assert found.verdict == expected
    assert "maps concatenated" in found.why
    assert "the other twin was not run" in found.why


@pytest.mark.parametrize(("adds", "expected"), [(2_602_113, YES), (2_602_112, NO)])
def test_soft_pruning_saves(adds, expected):
    results = one("end_to_end_concatenate", cost=COST | dict(multiply_adds_inference=adds))
    assert verdict(SAVES, results).verdict == expected


@pytest.mark.parametrize(("plain", "expected"), [(0.81, YES), (0.80, NO)])
def test_several_scales(plain, expected):
    assert verdict(SCALES, one("one_scale_7", test_error=plain)).verdict == expected


def test_whatever_is_missing_nothing_fails():
    names = list(parts(1))
    assert {found.verdict for found in judge(made_up(without=names))} == {UNTESTED}
    for name in names:
        for dataset in ("mnist", "digits", "svhn-subset"):
            found = judge(made_up(dataset, without=(name,), seeds=1))
            assert all(v.why.endswith(".") and "\n" not in v.why for v in found)
        empty = judge(one(name, curves={}, cost={}, extra={}, test_error=None))
        assert len(empty) == len(RULES)


def test_the_subset_of_svhn_is_judged_without_errors():
    found = judge(made_up("svhn-subset", change={"prime": {"test_error": 0.1}}))
    untested = [number for number, v in enumerate(found) if v.verdict == UNTESTED]
    assert untested == [ERROR, BASELINES, ARGMIN, RETAINS, SCALES]
