"""Stages, masks, and what a learned group convolution becomes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.baselines.condensenet.layers import (
    LearnedGroupConvolution,
    Pointwise,
    converted,
    fixed,
    stage_at,
)


def seen(layer):
    """A layer whose batch norm has statistics, weight and bias of its own, in evaluation mode."""
    nn.init.normal_(layer.norm.weight, 1, 0.3)
    nn.init.normal_(layer.norm.bias, 0, 0.3)
    for _ in range(5):
        layer(torch.randn(8, layer.norm.num_features, 3, 3) * 2 + 1)
    return layer.eval()


@pytest.mark.parametrize(
    ("condensation", "stages"), [(4, [0, 0, 1, 1, 2, 2, 3, 3]), (2, [0, 0, 0, 0, 0, 0, 1, 1]), (1, [0] * 8)]
)
def test_stages_by_progress(condensation, stages):
    assert [stage_at(p, condensation) for p in (0, 0.16, 0.17, 0.33, 0.34, 0.49, 0.5, 0.9)] == stages


@pytest.mark.parametrize("epochs", [6, 9, 30, 300])
def test_stages_begin_at_sixths_of_any_fit(epochs):
    batches = 10 * 6
    begun = {}
    for batch in range(epochs * batches):
        progress = (batch // batches + batch % batches / batches) / epochs
        begun.setdefault(stage_at(progress, 4), batch)
    assert begun == {0: 0, 1: epochs * 10, 2: epochs * 20, 3: epochs * 30}


def test_mask_at_each_stage():
    torch.manual_seed(0)
    layer = LearnedGroupConvolution(24, 12, groups=3, condensation=4)
    for stage in range(4):
        before = layer.alive.clone()
        layer.condense(stage)
        assert layer.stage == stage
        filters = layer.alive.repeat(4, 1)  # filter o reads what group o mod 3 reads
        assert filters.sum() == 12 * (24 - stage * 24 // 4)
        assert layer.alive.sum(1).tolist() == [24 - 6 * stage] * 3
        assert not (layer.alive & ~before).any()  # none comes back
    assert layer.is_condensed
    layer.condense(1)
    assert layer.stage == 3


def test_what_goes_is_what_the_group_reads_least():
    layer = LearnedGroupConvolution(4, 4, groups=2, condensation=2)
    sizes = torch.tensor([[4.0, 1.0, 3.0, 2.0], [1.0, 4.0, 2.0, 3.0]])  # by group and channel
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0])  # of filters: a sum without absolute values would be zero
    layer.weight.data = (sizes.repeat(2, 1) * signs[:, None])[:, :, None, None]
    layer.condense(1)
    assert layer.alive.tolist() == [[True, False, True, False], [False, True, False, True]]


def test_a_jump_over_stages_gives_up_all_of_their_portions():
    torch.manual_seed(0)
    layer = LearnedGroupConvolution(16, 8, groups=2, condensation=4)
    other = copy.deepcopy(layer)
    layer.condense(2)
    other.condense(1)
    other.condense(2)
    assert torch.equal(layer.alive, other.alive)
    assert layer.alive.sum() == 2 * 8


def test_masked_weights_get_no_gradient_but_decay_and_stay_masked():
    torch.manual_seed(0)
    layer = LearnedGroupConvolution(8, 4, groups=2, condensation=4)
    layer.condense(3)
    masked = ~layer.alive.repeat(2, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    before = layer.weight.detach().clone()
    layer(torch.randn(3, 8, 2, 2)).square().sum().backward()
    assert (layer.weight.grad[masked] == 0).all()
    assert (layer.weight.grad[~masked] != 0).all()
    optimizer.step()
    torch.testing.assert_close(layer.weight[masked], before[masked] * (1 - 0.5 * 0.1))
    x = torch.randn(2, 8, 2, 2)
    changed = copy.deepcopy(layer)
    changed.weight.data[masked] = 100
    assert torch.equal(layer(x), changed(x))


def test_without_condensation_it_is_a_plain_convolution():
    torch.manual_seed(0)
    layer, x = LearnedGroupConvolution(8, 4, groups=2, condensation=1), torch.randn(2, 8, 3, 3)
    assert layer.is_condensed
    assert torch.equal(layer(x), functional.conv2d(x, layer.weight))


@pytest.mark.parametrize(("groups", "condensation"), [(4, 4), (2, 4), (4, 2), (1, 3), (3, 1)])
@torch.no_grad()
def test_the_conversion_answers_the_same(groups, condensation):
    torch.manual_seed(0)
    layer = seen(Pointwise(24, 12, groups, condensation, dropout=0.2))
    layer.convolution.condense(condensation - 1)
    group_convolution = converted(layer)
    x = torch.randn(5, 24, 4, 4)
    torch.testing.assert_close(group_convolution(x), layer(x), rtol=0, atol=1e-6)
    width = group_convolution.convolution.in_channels
    assert width == (24 if condensation == 1 else 24 * groups // condensation)
    assert group_convolution.convolution.weight.numel() == 12 * 24 // condensation
    assert not any(part.training for part in group_convolution.modules())
    layer.norm.bias.fill_(5)  # the parts are its own
    assert not torch.equal(group_convolution(x), layer(x))


def test_the_conversion_waits_for_the_last_stage():
    layer = Pointwise(8, 4, 2, 4)
    layer.convolution.condense(1)
    with pytest.raises(ValueError, match="at stage 1 of 3 of its condensation, and cannot be converted; train it"):
        converted(layer)


def test_the_shuffle_deals_out_the_groups():
    layers = fixed(4, 8, groups=4)
    convolution = layers.convolution
    convolution.weight.data = torch.arange(4.0).repeat_interleave(2)[:, None, None, None]
    shuffled = layers.shuffle(convolution(torch.ones(1, 4, 1, 1)))
    assert shuffled.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((6, 8, 4, 2), "groups=4 does not divide the 6 input channels"),
        ((8, 8, 4, 3), "condensation=3 does not divide the 8 input channels"),
        ((8, 6, 4, 2), "groups=4 does not divide the 6 filters"),
        ((8, 8, 0, 2), "groups=0 must be at least 1"),
    ],
)
def test_channels_have_to_be_shared_out_evenly(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        LearnedGroupConvolution(*sizes)
