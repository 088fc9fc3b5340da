"""Layers, scales and exits against the tables of the specification."""

import pytest

from primenet_lightning.baselines.msdnet.plan import Plan


def test_scales_are_dropped_where_the_table_says():
    plan = Plan(exits=5)
    scales = [plan.scales - plan.finest(layer) for layer in range(1, 16)]
    assert scales == [3] * 5 + [2] * 5 + [1] * 5
    assert [layer for layer in range(1, 16) if plan.drops(layer)] == [6, 11]
    assert [plan.width(layer) for layer in (6, 7, 11, 12)] == [46, 26, 50, 28]


def test_exits_are_where_the_table_says():
    assert Plan(exits=7).ends == [1, 3, 6, 10, 15, 21, 28]
    assert Plan(exits=7, base=4, step=2, spacing="even").ends == [4, 6, 8, 10, 12, 14, 16]
    assert Plan(exits=3, base=2, step=2).ends == [2, 5, 10]


@pytest.mark.parametrize("exits", [1, 3, 5])
@pytest.mark.parametrize("scales", [1, 2, 3, 4])
def test_an_exit_needs_the_maps_of_the_rule(exits, scales):
    """Of layer l, scale s (from 1) is needed after layer L if and only if s >= S - (L - l)."""
    plan, visited = Plan(exits=exits, base=3, step=2, scales=scales), set()
    for index, end in enumerate(plan.ends):
        visits = plan.visits(index)
        assert not visited & {*visits}
        visited |= {*visits}
        needed = set()
        for layer in range(1, end + 1):
            for scale in range(1, scales + 1):
                if scale >= scales - (end - layer) and scale - 1 >= plan.finest(layer):
                    needed.add((layer, scale - 1))
        assert visited == needed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(exits=0), "exits=0 must be at least 1"),
        (dict(growth=2.5), r"growth=2\.5 must be a whole number"),
        (dict(spacing="odd"), r"spacing='odd' is unknown; use one of \('even', 'lin_grow'\)"),
    ],
)
def test_impossible_plans_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Plan(**arguments)
