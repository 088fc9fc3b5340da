import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning import Capsule, ConvCapsule


def test_capsule_is_the_two_modules_in_a_row():
    features, classifier = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    x = torch.randn(4, 1, 8, 8)
    feature_map, logits = Capsule(features, classifier)(x)
    assert torch.equal(feature_map, features(x))
    assert torch.equal(logits, classifier(features(x)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_conv_capsule_equals_the_formula_of_the_paper(kernel_size, stride):
    capsule = ConvCapsule(3, (9, 8), 10, kernel_size, reduce_channels=2, channels=4, stride=stride).double()
    x = torch.randn(5, 3, 9, 8, dtype=torch.float64)
    reduce, convolution, norm, _ = capsule.features
    y = torch.einsum("rc,bchw->brhw", reduce.weight[:, :, 0, 0], x)  # a 1x1 convolution is a matrix per pixel
    y = functional.conv2d(y, convolution.weight, stride=stride, padding=kernel_size // 2)
    mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    y = (y - mean) / (var + norm.eps).sqrt()
    y = torch.where(y > 0, y, 0.01 * y)
    feature_map, logits = capsule(x)
    torch.testing.assert_close(feature_map, y)
    dense = capsule.classifier[1]
    torch.testing.assert_close(logits, y.reshape(5, -1) @ dense.weight.T + dense.bias)


def test_pooled_classifier_averages_over_a_grid():
    capsule = ConvCapsule(1, (8, 8), 10, 3, reduce_channels=2, channels=4, classifier="pooled")
    feature_map, logits = capsule(torch.randn(2, 1, 8, 8))
    dense = capsule.classifier[2]
    cells = feature_map.reshape(2, 4, 4, 2, 4, 2).mean((3, 5)).reshape(2, -1)
    torch.testing.assert_close(logits, cells @ dense.weight.T + dense.bias)


def test_convolutions_before_a_batch_norm_have_no_bias():
    names = [name for name, _ in ConvCapsule(1, (8, 8), 3, 3).features.named_parameters()]
    assert names == ["0.weight", "1.weight", "2.weight", "2.bias"]  # 2 is the batch norm


def test_glorot_initialisation_has_its_bounds_and_variance():
    weight = ConvCapsule(16, (8, 8), 10, 5, reduce_channels=32, channels=64).features[1].weight
    bound = (6 / (32 * 25 + 64 * 25)) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.05)


@pytest.mark.parametrize("kernel_size", [2, 0, -1])
def test_even_scale_is_refused(kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size={kernel_size} must be odd"):
        ConvCapsule(1, (8, 8), 3, kernel_size)


def test_unknown_classifier_is_refused():
    with pytest.raises(ValueError, match="local_classifier='dense' is unknown; use 'flatten' or 'pooled'"):
        ConvCapsule(1, (8, 8), 3, 3, classifier="dense")
