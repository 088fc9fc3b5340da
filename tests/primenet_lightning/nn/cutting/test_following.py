"""The layers that follow as a local classifier."""

import pytest
import small
import torch
from torch import nn

from primenet_lightning.nn.classifiers import evenly
from primenet_lightning.nn.cutting.balance import costs_of
from primenet_lightning.nn.cutting.cut import pieces_of
from primenet_lightning.nn.cutting.features import Features
from primenet_lightning.nn.cutting.following import Fit, LayersThatFollow, fresh, shape_given

SHAPE = (3, 32, 32)


def begun(model, count):
    """What the first so many pieces hand on, and those that follow but for the last."""
    pieces = pieces_of(model, SHAPE)
    return pieces[count - 1].gives, pieces[count:-1]


@pytest.mark.parametrize("name", ["resnet", "densenet", "vit", "swin", "convnext"])
@pytest.mark.parametrize("depth", [1, 2, 9])
def test_blocks_of_every_model_are_copied_with_weights_of_their_own(name, depth):
    torch.manual_seed(0)
    model = getattr(small, name)()
    features, following = begun(model, 2)
    classifier = LayersThatFollow(features, 5, following, depth=depth)
    logits = classifier(torch.randn(4, *features.shape))
    assert logits.shape == (4, 5)
    own = {id(parameter) for parameter in classifier.parameters()}
    assert not own & {id(parameter) for parameter in model.parameters()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_blocks_are_chosen_as_the_paper_does():
    # round(i n / d) with halves rounded up, as an independent count
    for count in range(1, 12):
        for depth in range(1, count + 1):
            places = [int(i * count / depth + 0.5) - 1 for i in range(1, depth + 1)]
            assert evenly(count, depth) == places
    assert evenly(0, 2) == []
    model = small.resnet()
    features, following = begun(model, 2)
    names = [piece.part.name for piece in following]
    classifier = LayersThatFollow(features, 5, following, depth=2)
    chosen = [layer.name for layer in classifier if hasattr(layer, "body")]
    assert chosen == [names[int(len(names) / 2 + 0.5) - 1], names[-1]]


def test_blocks_in_a_row_need_nothing_between_them():
    features, following = begun(small.resnet(), 2)
    everything = LayersThatFollow(features, 5, following, depth=99)
    assert [type(layer).__name__ for layer in everything][: len(following)] == ["Part"] * len(following)
    few = LayersThatFollow(features, 5, following, depth=1)
    assert [type(layer).__name__ for layer in few][:2] == ["Fit", "Part"]


def test_width_makes_copies_narrower_where_that_can_be():
    features, following = begun(small.resnet(), 2)
    full = LayersThatFollow(features, 5, following, depth=2)
    half = LayersThatFollow(features, 5, following, depth=2, width=0.5)
    assert half(torch.randn(2, *features.shape)).shape == (2, 5)
    count = [sum(p.numel() for p in classifier.parameters()) for classifier in (full, half)]
    assert count[1] < 0.3 * count[0]
    # a transformer's block knows how wide its heads are: it keeps its width
    features, following = begun(small.vit(), 2)
    classifier = LayersThatFollow(features, 5, following, depth=1, width=0.5)
    assert classifier(torch.randn(2, *features.shape)).shape == (2, 5)


def test_a_budget_bounds_the_multiply_adds():
    features, following = begun(small.resnet(), 1)
    whole = sum(cost.multiply_adds for cost in costs_of([piece.part for piece in following], features.shape))
    for budget in (0.2, 0.5):
        classifier = LayersThatFollow(features, 5, following, depth=5, budget=budget)
        depth = sum(hasattr(layer, "body") for layer in classifier)
        cost = sum(cost.multiply_adds for cost in costs_of(list(classifier), features.shape))
        assert cost <= budget * whole or depth == 1
        deeper = LayersThatFollow(features, 5, following, depth=depth + 1)
        assert sum(cost.multiply_adds for cost in costs_of(list(deeper), features.shape)) > budget * whole


def test_fresh_copies_begin_anew_and_learn():
    block = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.MultiheadAttention(4, 2)).requires_grad_(False)
    block[1].running_mean += 3
    torch.manual_seed(1)
    copied = fresh(block)
    assert not torch.equal(copied[0].weight, block[0].weight)
    assert not torch.equal(copied[2].in_proj_weight, block[2].in_proj_weight)
    assert torch.equal(copied[1].running_mean, torch.zeros(2))
    assert all(parameter.requires_grad for parameter in copied.parameters())
    assert torch.equal(fresh(torch.ones(3)), torch.ones(3))


@pytest.mark.parametrize("shape", [(8, 6, 6), (6, 6, 8), (17, 8), (8,)])
@pytest.mark.parametrize("wanted", [(5, 3, 3), (3, 3, 5), (9, 5), (5,), (8, 6, 6)])
def test_features_of_any_kind_fit_those_of_any_other(shape, wanted):
    features, goal = Features.of(shape, (3, 32, 32)), Features.of(wanted, (3, 32, 32))
    assert Fit(features, goal)(torch.randn(2, *shape)).shape == (2, *wanted)


def test_fitting_averages_and_no_more():
    x = torch.randn(2, 8, 6, 6)
    fitted = Fit(Features((8, 6, 6), "maps"), Features((8, 3, 3), "maps"))(x)
    torch.testing.assert_close(fitted, x.reshape(2, 8, 3, 2, 3, 2).mean((3, 5)))


def test_a_trial_leaves_modes_as_they_were():
    model = nn.Sequential(nn.Linear(4, 4).eval(), nn.Dropout(0.5))
    assert shape_given(model, (4,)) == (4,)
    assert shape_given(model, (3,)) is None
    assert [layer.training for layer in model] == [False, True]
