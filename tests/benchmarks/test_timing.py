import json

import pytest
import timing


def test_sides_take_turns_and_the_first_rounds_do_not_count():
    order = []
    times = timing.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm_up=1)
    rounds = ["".join(order[i : i + 2]) for i in range(0, 8, 2)]
    assert len(order) == 8
    assert set(rounds) == {"ab", "ba"}
    assert [len(times[name]) for name in "ab"] == [3, 3]


def test_ratios_are_taken_round_by_round():
    assert timing.ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0]) == (2.0, 2.0, 2.5)
    assert timing.spread([3.0]) == (3.0, 3.0, 3.0)


def test_a_figure_past_its_bound_fails_and_the_figures_are_printed_all_the_same(capsys):
    bound, conclude = timing.Bound, timing.conclude
    bounds = [bound("fast", "at least", 2.0), bound("small", "at most", 1.0), bound("unmeasured", "at least", 9.0)]
    conclude({"fast": 2.0, "small": 1.0, "device": "cpu"}, bounds)
    with pytest.raises(SystemExit, match=r"^fast is 1.9900, and at least 2.0 is wanted\nsmall is 1.0100, and at most"):
        conclude({"fast": 1.99, "small": 1.01}, bounds)
    with pytest.raises(SystemExit, match=r"^fast is nan, and at least 2.0 is wanted\nsmall is 2.0000"):
        conclude({"fast": float("nan"), "small": 2}, bounds)
    assert json.loads(capsys.readouterr().out.splitlines()[-2]) == {"fast": 1.99, "small": 1.01}
