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
from primenet_lightning.nn.whitened import DiracConv2d

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


def conv_model():
    """Convolutions that halve the maps, and others between them; the end has layers of its own."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 32, 3, 2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        Maxima(32, 5),
    )
    pieces = pieces_of(model, SHAPE)
    return pieces[0].gives, pieces[1:-1], pieces[-1]


class Maxima(nn.Module):
    """An end that is no average."""

    def __init__(self, channels, classes):
        super().__init__()
        self.dense = nn.Linear(channels, classes, bias=False)

    def forward(self, x):
        return self.dense(x.amax((2, 3))) / 9


def shapes(classifier, kind):
    return [tuple(layer.weight.shape) for layer in classifier.modules() if isinstance(layer, kind)]


def test_blocks_that_shrink_the_maps_are_chosen_where_asked():
    features, following, _ = conv_model()
    classifier = LayersThatFollow(features, 5, following, depth=9, blocks="shrinking")
    assert shapes(classifier, nn.Conv2d) == [(16, 8, 3, 3), (32, 16, 3, 3)]
    one = LayersThatFollow(features, 5, following, depth=1, blocks="shrinking")
    assert shapes(one, nn.Conv2d)[-1] == (32, 16, 3, 3)


def test_where_no_block_shrinks_the_maps_all_may_be_chosen():
    features, following, _ = conv_model()
    classifier = LayersThatFollow(features, 5, following[1:2], depth=1, blocks="shrinking")
    assert shapes(classifier, nn.Conv2d)[-1] == (16, 16, 3, 3)


def test_a_narrow_block_takes_all_channels_that_there_are():
    features, following, _ = conv_model()
    classifier = LayersThatFollow(features, 5, following, depth=4, width=0.5, direct=True)
    assert shapes(classifier, nn.Conv2d) == [(8, 8, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3)]
    through_fit = LayersThatFollow(features, 5, following, depth=4, width=0.5)
    assert shapes(through_fit, nn.Conv2d)[:2] == [(4, 8, 1, 1), (8, 4, 3, 3)]


def test_a_block_that_cannot_take_other_channels_has_a_convolution_before_it():
    # the input of a residual block is added to what it gives
    features, following = begun(small.resnet(), 2)
    other = Features((features.channels + 3, *features.map_size), "maps")
    straight = [piece for piece in following if piece.takes == piece.gives][:1]
    classifier = LayersThatFollow(other, 5, straight, depth=1, direct=True)
    assert [type(layer).__name__ for layer in classifier][:2] == ["Fit", "Part"]
    assert classifier(torch.randn(4, *other.shape)).shape == (4, 5)


@pytest.mark.parametrize("name", ["resnet", "densenet", "vit", "swin", "convnext"])
def test_every_model_can_be_followed_by_a_small_model_of_itself(name):
    torch.manual_seed(0)
    pieces = pieces_of(getattr(small, name)(), SHAPE)
    classifier = LayersThatFollow(
        pieces[1].gives, 5, pieces[2:-1], 2, 0.5, blocks="shrinking", ending="copy", direct=True, last=pieces[-1]
    )
    classifier(torch.randn(4, *pieces[1].gives.shape)).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_the_model_ends_the_classifier_in_its_own_way_where_asked():
    torch.manual_seed(0)
    features, following, last = conv_model()
    classifier = LayersThatFollow(features, 5, following, 2, 0.5, ending="copy", direct=True, last=last)
    assert shapes(classifier, nn.Linear) == [(5, 16)]
    x = torch.randn(4, *features.shape)
    for layer in list(classifier)[:-1]:
        x = layer(x)
    dense = next(layer for layer in classifier.modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(classifier[-1](x), x.amax((2, 3)) @ dense.weight.T / 9)
    assert dense.weight.data_ptr() != last.part.model[5].dense.weight.data_ptr()


def test_narrow_copies_begin_as_their_class_does():
    torch.manual_seed(0)
    model = nn.Sequential(DiracConv2d(3, 8, 3, 2, padding=1), DiracConv2d(8, 64, 3, padding=1), nn.Conv2d(64, 5, 32))
    model[1].weight.data.fill_(7)
    pieces = pieces_of(nn.Sequential(*model[:2], nn.Flatten(), nn.Linear(64 * 16 * 16, 5)), SHAPE)
    classifier = LayersThatFollow(pieces[0].gives, 5, pieces[1:-1], depth=1, width=0.5, direct=True)
    layer = next(module for module in classifier.modules() if isinstance(module, DiracConv2d))
    assert layer.weight.shape == (32, 8, 3, 3)
    # the identity, and then torch's uniform numbers for 8 channels, of standard deviation 1 / sqrt(3 * 72)
    assert torch.equal(layer.weight[:8].sum((2, 3)), torch.eye(8))
    assert float(layer.weight[8:].detach().std()) == pytest.approx((3 * 72) ** -0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": "some"}, "blocks='some' is unknown"),
        ({"ending": "none"}, "ending='none' is unknown"),
        ({"ending": "copy"}, "needs the model's own last block"),
    ],
)
def test_unknown_choices_are_refused(options, words):
    features, following, _ = conv_model()
    with pytest.raises(ValueError, match=words):
        LayersThatFollow(features, 5, following, **options)
