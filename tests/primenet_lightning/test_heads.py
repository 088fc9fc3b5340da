import pytest
import torch
from torch.nn import functional

from primenet_lightning import ClassifierHead, FlattenClassifier, Projection


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


def test_a_map_laid_out_channels_last_is_classified_as_any_other():
    classifier = FlattenClassifier(3, (4, 5), 7).double()
    x = torch.randn(8, 3, 4, 5, dtype=torch.float64)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        mine = x.contiguous(memory_format=layout).requires_grad_()
        logits = classifier(mine)
        results.append([logits, *torch.autograd.grad(logits.square().sum(), [mine, *classifier.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(results[0][0], x.flatten(1) @ classifier[1].weight.T + classifier[1].bias)


def test_few_maps_are_copied_rather_than_the_weight():
    """And a classifier with more layers runs them all."""
    classifier = FlattenClassifier(3, (4, 5), 7)
    x = torch.randn(7, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(classifier(x), x.flatten(1) @ classifier[1].weight.T + classifier[1].bias)
    classifier.insert(1, torch.nn.Dropout(1.0))
    assert torch.equal(classifier(x.repeat(2, 1, 1, 1)), classifier[2].bias.expand(14, 7))


def test_a_projection_may_have_more_layers():
    projection = Projection(2, 3)
    projection.append(torch.nn.BatchNorm2d(3))
    torch.testing.assert_close(projection(torch.randn(4, 2, 8, 8)).mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)


def test_hooks_of_a_classifiers_layers_are_called_for_either_layout():
    classifier, seen = FlattenClassifier(3, (4, 5), 7), []
    classifier[1].register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    x = torch.randn(8, 3, 4, 5)
    first, second = classifier(x), classifier(x.contiguous(memory_format=torch.channels_last))
    assert seen == [(8, 60), (8, 60)]
    torch.testing.assert_close(first, second)


def test_head_refuses_maps_that_its_poolings_would_eat():
    with pytest.raises(ValueError, match=r"map_size=\(3, 8\) is too small for the head"):
        ClassifierHead(6, (3, 8), 5)


@pytest.mark.parametrize(("size", "stride"), [((7, 8), (1, 1)), ((4, 4), (2, 2)), ((7, 4), (1, 2)), ((3, 8), (3, 1))])
def test_projection_is_pool_then_convolution_then_relu(size, stride):
    projection = Projection.to_size((2, 7, 8), 3, size).double()
    x = torch.randn(4, 2, 7, 8, dtype=torch.float64)
    padded = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    pooled = padded.unfold(2, 3, stride[0]).unfold(3, 3, stride[1]).amax((-1, -2))
    convolution = projection[1]
    y = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], pooled)
    torch.testing.assert_close(projection(x), (y + convolution.bias[:, None, None]).clamp(min=0))


@pytest.mark.parametrize("stride", [1, 2, (2, 1), (3, 2)])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 5)])
def test_few_channels_are_pooled_as_torch_pools_them(size, stride):
    pool = torch.nn.MaxPool2d(3, stride=stride, padding=1)
    projection = Projection(3, 4, pool)
    x = torch.randn(5, 3, *size)
    x[0, 0, 0, 0], x[1] = torch.nan, -torch.inf
    pooled = []
    projection[1].register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    projection(x)
    projection(x.clone().requires_grad_())  # torch's own, whose backward is right
    assert pooled[1].requires_grad
    assert torch.equal(pooled[0].nan_to_num(99), pool(x).nan_to_num(99))
    assert torch.equal(pooled[0].nan_to_num(99), pooled[1].nan_to_num(99))


@pytest.mark.parametrize(
    "pool", [dict(padding=0), dict(padding=1, ceil_mode=True), dict(padding=1, dilation=2)], ids=str
)
def test_other_pools_are_left_to_torch(pool):
    pool = torch.nn.MaxPool2d(3, stride=2, **pool)
    x = torch.randn(5, 3, 8, 8)
    projection = Projection(3, 4, pool)
    torch.testing.assert_close(projection(x), projection[1](pool(x)).relu())


def test_projection_meets_any_size_of_map():
    """An unpadded convolution's maps, which no stride gives."""
    x = torch.randn(4, 2, 8, 8)
    projection = Projection.to_size((2, 8, 8), 3, (6, 5))
    pooled = functional.adaptive_max_pool2d(x, (6, 5))
    torch.testing.assert_close(projection(x), projection[1](pooled).relu())
