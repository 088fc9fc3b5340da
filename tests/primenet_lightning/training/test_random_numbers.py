"""Random numbers of a stage."""

import rows
import torch
from torch import nn

from primenet_lightning.training.random_numbers import KeyedRandom
from primenet_lightning.training.runner import StageRunner


def test_stages_and_batches_draw_their_own():
    random = KeyedRandom(1)
    drawn = []
    for step in range(3):
        random.step = step
        for stage in range(3):
            with random.of_stage(stage):
                drawn.append(tuple(torch.rand(4).tolist()))
    with KeyedRandom(2).of_stage(0):
        drawn.append(tuple(torch.rand(4).tolist()))
    assert len(set(drawn)) == 10


def test_others_go_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(0)
    expected = torch.rand(6)
    torch.manual_seed(0)
    first = torch.rand(3)
    try:
        with KeyedRandom(1).of_stage(0):
            torch.rand(5)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.cat([first, torch.rand(3)]), expected)
    assert torch.initial_seed() == 0


def test_a_stage_draws_the_same_whatever_ran_before_it():
    """Dropout of the second stage alone, with and without the first one drawing."""
    ((x, target),) = rows.make_batches(1)
    losses = []
    for rate in (0.0, 0.5):
        network = rows.make_row(widths=(4, 6, 5))
        network.parts[0].layers["layer0"].register_forward_hook(
            lambda module, args, output, rate=rate: nn.functional.dropout(output, rate) * 0 + output
        )
        network.parts[1].layers["layer0"].register_forward_hook(
            lambda module, args, output: nn.functional.dropout(output, 0.5)
        )
        losses.append(StageRunner(network, random=KeyedRandom(3)).run(x, target).values["stage1.layer0"])
    assert losses[0] == losses[1]
