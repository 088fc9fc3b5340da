import pytest
from tiny import make_model

from primenet_lightning.analysis.routing import best_and_since, shares_of_capsules


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([], (float("inf"), 0)), ([3.0, 2.0], (2.0, 0)), ([2.0, 1.9, 1.99], (2.0, 2)), ([2.0, 1.9, 1.79], (1.79, 0))],
)
def test_best_and_since(losses, expected):
    assert best_and_since(losses, 0.1) == expected


def test_a_network_that_is_trained_end_to_end_has_no_shares():
    assert shares_of_capsules(make_model(router="mean", local=False).network) == {}
