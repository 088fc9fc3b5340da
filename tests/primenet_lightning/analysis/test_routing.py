import pytest

from primenet_lightning.analysis.routing import best_and_since


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([], (float("inf"), 0)), ([3.0, 2.0], (2.0, 0)), ([2.0, 1.9, 1.99], (2.0, 2)), ([2.0, 1.9, 1.79], (1.79, 0))],
)
def test_best_and_since(losses, expected):
    assert best_and_since(losses, 0.1) == expected
