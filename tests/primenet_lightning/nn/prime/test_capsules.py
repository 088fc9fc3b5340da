import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning import Capsule, ConvCapsule
from primenet_lightning.nn.prime.capsules import ConvFeatures


def test_capsule_is_the_two_modules_in_a_row():
    features, classifier = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    x = torch.randn(4, 1, 8, 8)
    feature_map, logits = Capsule(features, classifier)(x)
    assert torch.equal(feature_map, features(x))
    assert torch.equal(logits, classifier(features(x)))


@pytest.mark.parametrize("reduce_channels", [2, 3, 6], ids=["in a row", "as many", "folded"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_conv_capsule_equals_the_formula_of_the_paper(kernel_size, stride, reduce_channels):
    capsule = ConvCapsule(3, (9, 8), 10, kernel_size, reduce_channels, channels=4, stride=stride).double()
    assert capsule.features.folds == (reduce_channels >= 3)
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


def test_features_are_a_sequence_of_layers_like_any_other():
    features = ConvFeatures(1, kernel_size=3, reduce_channels=2, channels=4).eval()
    x = torch.randn(2, 1, 8, 8)
    convolved = features[:2](x)
    torch.testing.assert_close(features[2:](convolved), features(x))
    features.append(nn.Dropout())
    assert features.train()(x).eq(0).any()


def test_backward_hooks_may_be_on_any_layer():
    """As what explains a network's decisions puts them there."""
    capsule, seen = ConvCapsule(1, (8, 8), 3, 3), []
    for layer in capsule.features:
        layer.register_full_backward_hook(lambda module, *_: seen.append(type(module).__name__))
    capsule(torch.randn(2, 1, 8, 8, requires_grad=True))[1].sum().backward()
    assert seen == ["LeakyReLU", "BatchNorm2d", "Conv2d", "Conv2d"]


def test_shapes_are_inferred_without_memory():
    with torch.device("meta"):
        capsule = ConvCapsule(1, (8, 8), 3, 3)
        assert capsule(torch.zeros(2, 1, 8, 8))[1].shape == (2, 3)


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
    with pytest.raises(
        ValueError, match="local_classifier='dense' is unknown; use 'flatten', 'pooled', 'mlp', 'conv' or 'layers'"
    ):
        ConvCapsule(1, (8, 8), 3, 3, classifier="dense")


def test_a_strided_1x1_kernel_learns_from_an_odd_batch_on_two_threads():
    """Where torch 2.15's own backward of it, channels last, writes outside its memory: often an abort."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(5):
            features = ConvFeatures(3, kernel_size=1, reduce_channels=8, channels=16, stride=2)
            x = torch.randn(31, 3, 28, 28)
            reduce, convolution, *rest = features
            y = convolution(reduce(x))[:, :, ::2, ::2]
            for layer in rest:
                y = layer(y)
            weights = [reduce.weight, convolution.weight]
            judge = torch.randn_like(y)
            expected = torch.autograd.grad((judge * y).sum(), weights)
            found = torch.autograd.grad((judge * features(x)).sum(), weights)
            for mine, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-2)
    finally:
        torch.set_num_threads(threads)
