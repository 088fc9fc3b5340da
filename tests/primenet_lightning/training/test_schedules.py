import copy
from math import cos, pi

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from primenet_lightning import CompositeOptimizer, PaperAdam
from primenet_lightning.training.schedules import schedule

STEPS = 40


def cosine(t, total):
    return (1 + cos(pi * t / total)) / 2


def step(t, total):
    return 0.25 ** sum(100 * t >= percent * total for percent in (50, 75, 89, 94))


def one_cycle(t, total):
    top = 0.25 * total - 1
    if t <= top:
        return 1 / 25 + (1 - 1 / 25) * (1 - cos(pi * t / top)) / 2
    return 4e-6 + (1 - 4e-6) * (1 + cos(pi * (t - top) / (total - 1 - top))) / 2


def triangular(t, total):
    """As airbench's `np.interp` has it."""
    return float(np.interp(t, [0, 0.23 * total, total], [0.2, 1, 0.07]))


CURVES = {"cosine": cosine, "step": step, "one_cycle": one_cycle, "triangular": triangular}
ENDS = {"cosine": 0.005, "step": 0.005, "one_cycle": 0.005, "triangular": 0.0070001}


def parameter():
    return nn.Parameter(torch.zeros(1))


def rates(optimizer, scheduler, steps):
    """The rates that each step is taken with, by group."""
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("total", [5, 16, STEPS, 1000])
@pytest.mark.parametrize("name", CURVES)
def test_every_step_has_the_rate_of_the_formula_and_each_group_its_own(name, total):
    optimizer = Adam([dict(params=[parameter()], lr=0.1), dict(params=[parameter()], lr=0.003)], betas=(0.99, 0.9))
    found = rates(optimizer, schedule(name, optimizer, total), total)
    expected = [[rate * CURVES[name](t, total) for rate in (0.1, 0.003)] for t in range(total)]
    torch.testing.assert_close(torch.tensor(found).double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-9)
    assert all(group["betas"] == (0.99, 0.9) for group in optimizer.param_groups)


def test_one_step_of_all_has_the_whole_rate():
    for name in ("cosine", "step"):
        optimizer = SGD([parameter()], lr=0.1)
        assert rates(optimizer, schedule(name, optimizer, 1), 1) == [[0.1]]


@pytest.mark.parametrize("name", CURVES)
def test_the_end_can_be_reached(name):
    """The rate that the schedule sets after the last step is used by nobody, but it must be there."""
    optimizer = SGD([parameter()], lr=0.1)
    last = rates(optimizer, schedule(name, optimizer, STEPS), STEPS)[-1][0]
    assert last == pytest.approx(0.1 * CURVES[name](STEPS - 1, STEPS), rel=1e-5)
    assert 0 <= optimizer.param_groups[0]["lr"] < ENDS[name]


def composite():
    return CompositeOptimizer({"a": PaperAdam([parameter()], lr=0.1), "b": SGD([parameter()], lr=0.01)})


@pytest.mark.parametrize("name", CURVES)
def test_a_composites_children_follow_and_a_state_resumes(name):
    optimizer = composite()
    scheduler = schedule(name, optimizer, STEPS)
    unbroken = rates(optimizer, scheduler, 13)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    unbroken += rates(optimizer, scheduler, STEPS - 13)
    for mine, rate in zip(zip(*unbroken, strict=True), (0.1, 0.01), strict=True):
        assert list(mine) == pytest.approx([rate * CURVES[name](t, STEPS) for t in range(STEPS)], rel=1e-5, abs=1e-9)
    resumed = composite()
    scheduler = schedule(name, resumed, STEPS)
    resumed.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    seen = resumed.children["b"].param_groups[0]
    assert (seen["lr"], rates(resumed, scheduler, STEPS - 13)) == (unbroken[13][1], unbroken[13:])


@pytest.mark.parametrize("name", CURVES)
def test_a_state_is_plain_enough_for_a_checkpoint(name, tmp_path):
    scheduler = schedule(name, composite(), STEPS)
    torch.save(scheduler.state_dict(), tmp_path / "state")
    scheduler.load_state_dict(torch.load(tmp_path / "state", weights_only=True))


def test_unknown_names_and_too_few_steps_are_refused():
    optimizer = SGD([parameter()], lr=0.1)
    with pytest.raises(
        ValueError, match=r"schedule='linear' is unknown; use one of \('cosine', 'step', 'one_cycle', 'triangular'\)"
    ):
        schedule("linear", optimizer, 10)
    for name, total, least in (("cosine", 0, 1), ("step", -1, 1), ("one_cycle", 4, 5)):
        with pytest.raises(ValueError, match=f"total_steps={total} is too few for schedule='{name}'.*least {least} "):
            schedule(name, optimizer, total)
    assert optimizer.param_groups[0]["lr"] == 0.1
