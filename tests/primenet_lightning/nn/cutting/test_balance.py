"""What pieces of a model cost, and how they are shared out."""

import itertools
import random

import pytest
import small
import torch
from torch import nn

from primenet_lightning import count_module
from primenet_lightning.analysis.memory import training_activation_bytes
from primenet_lightning.nn.cutting.balance import costs_of, share_out, without_numbers
from primenet_lightning.nn.cutting.cut import cut, pieces_of


def costliest(pieces, closing, starts):
    ends = [*starts, len(pieces)]
    return [sum(pieces[a:b]) + closing[b - 1] for a, b in zip([0, *starts], ends, strict=True)]


@pytest.mark.parametrize("seed", range(8))
def test_sharing_out_is_the_best_of_all_ways(seed):
    draw = random.Random(seed)
    count, parts = draw.randint(4, 9), draw.randint(1, 4)
    pieces = [draw.randint(1, 20) for _ in range(count)]
    closing = [*(draw.randint(0, 5) for _ in range(count - 1)), 0]
    ways = [list(starts) for starts in itertools.combinations(range(1, count), parts - 1)]
    best = min(max(costliest(pieces, closing, way)) for way in ways)
    least = min(
        sum(cost**2 for cost in costliest(pieces, closing, way))
        for way in ways
        if max(costliest(pieces, closing, way)) == best
    )
    starts = share_out(pieces, closing, parts)
    assert max(costliest(pieces, closing, starts)) == best
    assert sum(cost**2 for cost in costliest(pieces, closing, starts)) == least


def test_more_parts_than_pieces_are_refused():
    with pytest.raises(ValueError, match="parts=3 are more than there are pieces, 2"):
        share_out([1, 1], [0, 0], 3)


def test_costs_are_those_of_the_formulas():
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    first, second = costs_of([convolution, dense], (3, 4, 4), timed=True)
    assert first.multiply_adds == 8 * 3 * 9 * 4 * 4
    assert second.multiply_adds == 8 * 4 * 4 * 5
    assert first.activation_bytes == 4 * 3 * 4 * 4  # its input
    assert second.activation_bytes == 4 * 8 * 4 * 4
    assert min(first.seconds, second.seconds) > 0


def test_multiply_adds_of_the_pieces_are_those_of_the_model():
    model = small.resnet()
    pieces = [piece.part for piece in pieces_of(model, (3, 32, 32))]
    total = sum(cost.multiply_adds for cost in costs_of(pieces, (3, 32, 32)))
    assert total == count_module(model, (3, 32, 32)).multiply_adds_inference


def test_activations_of_parts_are_those_that_autograd_saves():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 10))
    (cost,) = costs_of(cut(model, (1, 8, 8), parts=1), (1, 8, 8))
    measured = training_activation_bytes(model, (1, 8, 8), batch_size=50)
    log_softmax = 4 * 10 * 50 + 4  # and the loss's own number
    input_bytes = 4 * 64 * 50  # which training does not count
    assert measured == pytest.approx(50 * cost.activation_bytes - input_bytes + log_softmax)


@pytest.mark.parametrize("timed", [False, True])
def test_measuring_changes_nothing(timed):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    before = [value.clone() for value in model.state_dict().values()]
    state = torch.get_rng_state()
    costs_of(cut(model, (4,), at=["3"]), (4,), timed=timed)
    assert all(map(torch.equal, before, model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert [parameter.grad for parameter in model.parameters()] == [None] * 6


@pytest.mark.parametrize("name", ["resnet", "vit", "swin", "convnext"])
def test_shapes_alone_cost_what_numbers_cost(name):
    pieces = [piece.part for piece in pieces_of(getattr(small, name)(), (3, 32, 32))]
    on_shapes = costs_of(pieces, (3, 32, 32))
    on_numbers = costs_of(pieces, (3, 32, 32), timed=True)
    assert [cost.multiply_adds for cost in on_shapes] == [cost.multiply_adds for cost in on_numbers]
    bytes_alike = [pytest.approx(cost.activation_bytes, rel=0.05, abs=64) for cost in on_numbers]
    assert [cost.activation_bytes for cost in on_shapes] == bytes_alike


def test_copies_without_numbers_share_what_the_originals_share():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    one, other = without_numbers([first, second])
    assert one.weight is other.weight
    assert one.weight.is_meta
    assert not first.weight.is_meta


def test_a_module_that_looks_at_numbers_is_measured_on_numbers():
    class Looking(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float(x.abs().max() >= 0)

    (cost,) = costs_of([Looking(4, 3)], (4,))
    assert cost.multiply_adds == 12


@pytest.mark.parametrize(("balance", "begin"), [("multiply_adds", "7"), ("activations", "23"), ("time", "1234567")])
def test_parts_are_balanced_by_what_is_asked_for(balance, begin):
    # four convolutions that save much and compute little, then a dense layer that computes most
    maps = [nn.Conv2d(8, 8, 1) for _ in range(4)]
    model = nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 512), nn.Linear(512, 512))
    parts = cut(model, (8, 16, 16), parts=2, balance=balance)
    assert parts[1].name in begin
