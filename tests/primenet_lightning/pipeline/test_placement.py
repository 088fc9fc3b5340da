"""Which stages go to which process."""

import itertools

import pytest
import rowed
import torch

from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.pipeline.placement import inseparable, place_stages, refuse_begins, seconds_of_stages


@pytest.mark.parametrize("sections", [2, 3, 4])
def test_the_slowest_process_is_as_fast_as_it_can_be(sections):
    network = rowed.convolutional()
    seconds = [3.0, 1.0, 2.0, 2.5]
    begins = place_stages(network, seconds, sections)

    def slowest(begins):
        ends = [*begins[1:], 4]
        return max(sum(seconds[begin:end]) for begin, end in zip(begins, ends, strict=True))

    ways = [[0, *way] for way in itertools.combinations([1, 2, 3], sections - 1)]
    assert slowest(begins) == min(slowest(way) for way in ways)


def test_stages_that_need_each_other_stay_together():
    assert inseparable(rowed.prime()) == [[0], [1], [2], [3, 4]]
    model = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(4)])
    assert inseparable(CutNetwork(model, (4,), at=["1", "2", "3"], recipe="overlap")) == [[0, 1, 2, 3]]
    tied = rowed.convolutional()
    first, third = tied.stages[0], tied.stages[2]
    third.register_parameter("shared", next(first.parameters()))
    assert inseparable(tied) == [[0, 1, 2], [3]]


def test_more_processes_than_stages_are_refused():
    with pytest.raises(ValueError, match="has more of them than the network has stages, 4; use at most"):
        place_stages(rowed.convolutional(), [1.0] * 4, 5)
    with pytest.raises(ValueError, match="stages, 5, some of which need each other so that 4 are left"):
        place_stages(rowed.prime(), [1.0] * 5, 5)


def test_begins_that_cannot_be_are_refused():
    network = rowed.prime()
    assert refuse_begins(network, ["block1", "block3"], 3) == [0, 1, 3]
    for begins, sections, words in (
        (["block9"], 2, "no stage; the stages are block0"),
        (["block2", "block1"], 3, "not in the order"),
        (["block1"], 3, "names 1 stages, but 3 processes need 2"),
        (["head"], 2, "'head', but it and 'block3' need each other"),
    ):
        with pytest.raises(ValueError, match=words):
            refuse_begins(network, begins, sections)


@pytest.mark.parametrize("name", list(rowed.NETWORKS))
def test_timing_changes_nothing(name):
    network = rowed.NETWORKS[name]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(3)
    seconds = seconds_of_stages(network, batch_size=4)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    assert len(seconds) == len(network.stages)
    assert min(seconds) > 0
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_stage_of_more_work_takes_more_time():
    wide = torch.nn.Sequential(torch.nn.Linear(8, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024))
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), wide, torch.nn.Linear(1024, 3))
    first, *_, second, _ = seconds_of_stages(CutNetwork(model, (8,), at=["1", "2"]), batch_size=64)
    assert second > 2 * first
