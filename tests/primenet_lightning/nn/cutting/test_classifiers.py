"""Local classifiers for any part of a model."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.nn.cutting.classifiers import MLPSR, Place, classifier_at, name_and_options
from primenet_lightning.nn.cutting.features import Features


def place(shape, image=(3, 32, 32)):
    return Place(0, 2, Features.of(shape, image), image, 5)


@pytest.mark.parametrize("kind", ["pooled", "mlp", "flatten", "conv", "layers_that_follow"])
@pytest.mark.parametrize("shape", [(8, 6, 6), (6, 6, 8), (17, 8), (8,), (8, 1, 1), (8, 6, 4)])
def test_every_kind_takes_every_layout(kind, shape):
    classifier = classifier_at(kind, place(shape))
    logits = classifier(torch.randn(3, *shape))
    assert logits.shape == (3, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_mlp_sr_is_the_papers():
    torch.manual_seed(0)
    model = MLPSR(6, (9, 9), 5).eval()
    x = torch.randn(4, 6, 9, 9)
    size = math.ceil(9 / 4)  # by hand, from the layers' weights: a sixteenth of the pixels
    y = functional.adaptive_avg_pool2d(x, (size, size))
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    dense = [layer for layer in model if isinstance(layer, nn.Linear)]
    assert [layer.weight.shape for layer in convolutions] == [(6, 6, 1, 1)] * 3
    assert [layer.weight.shape for layer in dense] == [(24, 24)] * 3 + [(5, 24)]
    untrained = 1 / math.sqrt(1 + 1e-5)  # what batch norm divides by in evaluation before training
    for layer in convolutions:
        y = (torch.einsum("oi,nihw->nohw", layer.weight[:, :, 0, 0], y) * untrained).relu()
    y = functional.adaptive_avg_pool2d(y, 2).flatten(1)
    for layer in dense[:-1]:
        y = ((y @ layer.weight.T + layer.bias) * untrained).relu()
    torch.testing.assert_close(model(x), y @ dense[-1].weight.T + dense[-1].bias)


def test_tokens_are_averaged_to_a_sixteenth():
    classifier = classifier_at("mlp", place((64, 8)))
    pool = next(layer for layer in classifier.modules() if isinstance(layer, nn.AdaptiveAvgPool2d))
    assert pool.output_size == (4, 1)


def test_options_and_bounds():
    narrow = classifier_at({"mlp": {"width": 7, "hidden_layers": 1}}, place((8, 6, 6)))
    assert [layer.out_features for layer in narrow.modules() if isinstance(layer, nn.Linear)] == [7, 5]
    small_map = classifier_at("pooled", place((8, 1, 1)))
    assert [layer.in_features for layer in small_map.modules() if isinstance(layer, nn.Linear)] == [8]
    assert name_and_options("recipe", {"dgl": None}) == ("dgl", {})


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("linear", "local_classifier='linear' is unknown; use one of 'mlp', 'layers_that_follow', 'pooled', 'flatten'"),
        ({"mlp": {"depth": 3}}, "has 'depth', which local_classifier='mlp' does not take; it takes .*convolutions"),
        ({"mlp": {"width": 0}}, "width=0 must be at least 1"),
        ({"mlp": {"convolutions": -1}}, "convolutions=-1 must be at least 0"),
        ({"mlp": {}, "conv": {}}, "has 2 names; give one"),
        ({"layers_that_follow": {"depth": 0}}, "depth=0 must be at least 1"),
        ({"layers_that_follow": {"width": 1.5}}, "width=1.5 must be above 0 and at most 1"),
        ({"layers_that_follow": {"budget": 0}}, "budget=0 must be above 0"),
    ],
)
def test_impossible_choices_are_refused(choice, sentence):
    with pytest.raises(ValueError, match=sentence):
        classifier_at(choice, place((8, 6, 6)))
