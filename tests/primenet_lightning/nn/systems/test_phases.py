"""Phases cover a fit without a gap."""

import pytest
import torch

from primenet_lightning.nn.systems.phases import Position, Standing, Timetable


@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_phases_cover_every_step_once(steps):
    table = Timetable.of_shares({"a": 0.3, "b": 0.3, "c": 0.4}, steps)
    assert [table.spans[0].start, table.spans[-1].stop] == [0, steps]
    for before, after in zip(table.spans, table.spans[1:], strict=False):
        assert before.stop == after.start
    phases = [table.phase(step) for step in range(steps)]
    for phase in "abc":
        assert table.done(phase, steps) == phases.count(phase)
    assert table.phase(steps + 5) == "c"


def test_a_checkpoint_has_the_position():
    standing, restored = Standing(), Standing()
    standing.position = Position(3, 9)
    state = standing.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())  # weights_only=True loads it
    restored.load_state_dict(state)
    assert restored.position == (3, 9)
