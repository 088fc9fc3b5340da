import pytest
import torch
from torch.nn import functional

from primenet_lightning import ClassifierHead, PooledClassifier
from primenet_lightning.nn.classifiers import (
    ConvClassifier,
    FollowingLayer,
    FollowingLayers,
    MLPClassifier,
    choose_layers,
    local_classifier,
)

THREE = [FollowingLayer(8, True), FollowingLayer(16, False), FollowingLayer(32, True)]


def test_head_equals_the_authors_layers_written_out():
    head = ClassifierHead(6, (8, 12), 5, channels=7).double()
    x = torch.randn(3, 6, 8, 12, dtype=torch.float64)
    norm, _, convolution, *_ = head.features
    y = functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True)
    y = y.reshape(3, 6, 4, 2, 6, 2).amax((3, 5))
    y = functional.conv2d(y, convolution.weight, convolution.bias, padding=1).clamp(min=0)
    y = y.reshape(3, 7, 2, 2, 3, 2).amax((3, 5)).flatten(1)
    torch.testing.assert_close(head.features(x), y)
    torch.testing.assert_close(head(x), y @ head.classifier.weight.T + head.classifier.bias)


def test_head_refuses_maps_that_its_poolings_would_eat():
    with pytest.raises(ValueError, match=r"map_size=\(3, 8\) is too small for the head"):
        ClassifierHead(6, (3, 8), 5)


@pytest.mark.parametrize("kind", ["flatten", "pooled", "mlp", "conv", "layers"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (4, 1), (9, 8), (28, 28)])
@pytest.mark.parametrize("following", [(), THREE], ids=len)
def test_every_local_classifier_takes_maps_of_any_size_and_learns(kind, size, following):
    classifier = local_classifier(kind, 6, size, 5, following)
    logits = classifier(torch.randn(3, 6, *size))
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())


@pytest.mark.parametrize("kind", ["pooled", "mlp", "conv", "layers"])
def test_weights_are_glorots_and_biases_zero(kind):
    for layer in local_classifier(kind, 6, (8, 8), 5, THREE).modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            inputs, outputs = layer.weight[0].numel(), layer.weight[:, 0].numel()
            bound = (6 / (inputs + outputs)) ** 0.5
            assert 0.7 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(
    ("kind", "size", "parameters"),
    [
        ("flatten", (8, 8), 6 * 64 * 5 + 5),
        ("pooled", (8, 8), 6 * 16 * 5 + 5),
        ("pooled", (1, 1), 6 * 16 * 5 + 5),
        ("mlp", (8, 8), 6 * 4 * 64 + 64 + 64 * 5 + 5),
        ("mlp", (8, 1), 6 * 2 * 64 + 64 + 64 * 5 + 5),
        ("conv", (8, 8), 6 * 32 * 9 + 2 * 32 + 32 * 4 * 5 + 5),
        ("conv", (1, 1), 6 * 32 * 9 + 2 * 32 + 32 * 5 + 5),
        ("layers", (8, 8), 6 * 16 * 9 + 2 * 16 + 16 * 32 * 9 + 2 * 32 + 32 * 4 * 5 + 5),
        ("layers", (4, 4), 6 * 16 * 9 + 2 * 16 + 16 * 32 * 9 + 2 * 32 + 32 * 1 * 5 + 5),
    ],
)
def test_parameters_of_local_classifiers(kind, size, parameters):
    classifier = local_classifier(kind, 6, size, 5, THREE)
    assert sum(parameter.numel() for parameter in classifier.parameters()) == parameters


def test_mlp_classifier_is_two_dense_layers_on_pooled_maps():
    classifier = MLPClassifier(3, (6, 9), 5, hidden=7, grid=3).double()
    x = torch.randn(4, 3, 6, 9, dtype=torch.float64)
    pooled = x.reshape(4, 3, 3, 2, 3, 3).mean((3, 5)).flatten(1)
    first, second = classifier[2], classifier[4]
    hidden = pooled @ first.weight.T + first.bias
    hidden = hidden.where(hidden > 0, 0.01 * hidden)
    torch.testing.assert_close(classifier(x), hidden @ second.weight.T + second.bias)


def written_out(x, convolution, norm, stride=1):
    """Convolution as one matrix product, batch norm and LeakyReLU by their formulas."""
    rows, columns = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    patches = functional.unfold(x, 3, padding=1, stride=stride)
    y = (convolution.weight.flatten(1) @ patches).reshape(len(x), -1, rows, columns)
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    y = (y - mean) / (variance + norm.eps).sqrt()
    return y.where(y > 0, 0.01 * y)


@pytest.mark.parametrize(("size", "stride"), [((8, 4), 2), ((4, 4), 1)])
def test_conv_classifier_is_its_layers_written_out(size, stride):
    classifier = ConvClassifier(3, size, 5, channels=7).double()
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    y = written_out(x, classifier[0], classifier[1], stride)
    y = y.reshape(4, 7, 2, size[0] // stride // 2, 2, size[1] // stride // 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(classifier(x), y @ classifier[-1].weight.T + classifier[-1].bias)


def test_following_layers_are_written_out_with_every_pool_by_itself():
    following = [FollowingLayer(5, False), FollowingLayer(9, True), FollowingLayer(6, True), FollowingLayer(4, True)]
    classifier = FollowingLayers(3, (21, 17), 5, following).double()
    x = torch.randn(4, 3, 21, 17, dtype=torch.float64)
    _, first, first_norm, _, _, second, second_norm, *_, dense = classifier
    y = written_out(functional.max_pool2d(x, 2), first, first_norm)
    y = written_out(functional.max_pool2d(functional.max_pool2d(y, 2), 2), second, second_norm)
    assert y.shape == (4, 4, 2, 2)  # its average pooling to 2x2 leaves it so
    torch.testing.assert_close(classifier(x), y.flatten(1) @ dense.weight.T + dense.bias)


@pytest.mark.parametrize(
    ("pooled", "depth", "chosen"),
    [
        ("", 2, []),
        ("0", 2, [(1, 0)]),
        ("1", 2, [(1, 1)]),
        ("11", 2, [(1, 1), (2, 1)]),
        ("11", 3, [(1, 1), (2, 1)]),
        ("111", 1, [(3, 3)]),
        ("101", 2, [(2, 1), (3, 1)]),
        ("1010", 2, [(2, 1), (4, 1)]),
        ("0011", 2, [(2, 0), (4, 2)]),
        ("11111", 2, [(3, 3), (5, 2)]),
        ("1001001", 2, [(4, 2), (7, 1)]),
        ("1001001", 3, [(2, 1), (5, 1), (7, 1)]),
        ("1111111111", 3, [(3, 3), (7, 4), (10, 3)]),
    ],
)
def test_layers_are_chosen_evenly_and_the_last_always(pooled, depth, chosen):
    """Layer n has n channels here; no pooling is lost on the way to the last."""
    following = [FollowingLayer(n, digit == "1") for n, digit in enumerate(pooled, start=1)]
    assert choose_layers(following, depth) == chosen


def test_where_nothing_follows_the_map_is_pooled_and_classified():
    x = torch.randn(3, 6, 9, 8)
    layers, pooled = FollowingLayers(6, (9, 8), 5, ()), PooledClassifier(6, 5)
    pooled.load_state_dict(layers.state_dict())
    torch.testing.assert_close(layers(x), pooled(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLPClassifier(6, (4, 4), 5, hidden=0), "hidden=0 must be at least 1"),
        (lambda: MLPClassifier(6, (4, 4), 5, grid=0), "grid=0 must be at least 1"),
        (lambda: ConvClassifier(6, (4, 4), 5, channels=0), "channels=0 must be at least 1"),
        (lambda: FollowingLayers(6, (4, 4), 5, THREE, depth=0), "depth=0 must be at least 1"),
        (
            lambda: local_classifier("dense", 6, (4, 4), 5),
            "local_classifier='dense' is unknown; use 'flatten', 'pooled', 'mlp', 'conv' or 'layers'",
        ),
    ],
)
def test_bad_options_of_local_classifiers_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
