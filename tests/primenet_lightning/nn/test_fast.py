"""What is run otherwise than written gives the same numbers, and is left to its layers where they are more."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import FlattenClassifier, Projection
from primenet_lightning.nn.fast import fold, halve, is_plain, run_pool
from primenet_lightning.nn.layout import channels_last
from primenet_lightning.nn.prime.capsules import ConvFeatures


def test_a_layer_is_plain_unless_it_is_more_than_its_parameters():
    class Scaled(nn.Linear):
        pass

    assert is_plain(nn.Linear(2, 2), nn.Linear)
    assert not is_plain(Scaled(2, 2), nn.Linear)
    assert not is_plain(nn.Conv2d(2, 2, 1), nn.Linear)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        watched = nn.Linear(2, 2)
        getattr(watched, register)(lambda *_: None)
        assert not is_plain(watched, nn.Linear)
    replaced = nn.Linear(2, 2)
    replaced.forward = lambda x: x
    assert not is_plain(replaced, nn.Linear)
    assert not is_plain(parametrize.register_parametrization(nn.Linear(2, 2), "weight", nn.Identity()), nn.Linear)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_folded_convolutions_have_the_output_and_gradients_of_two_in_a_row(in_channels, dtype, tolerance):
    torch.manual_seed(0)
    x = torch.randn(6, in_channels, 9, 8, dtype=dtype, requires_grad=True)
    results = []
    for folds in (True, False):
        torch.manual_seed(1)
        features = ConvFeatures(in_channels, kernel_size=5, reduce_channels=4, channels=7, stride=2).to(dtype)
        features.folds = folds
        y = features(x)
        gradients = torch.autograd.grad(
            (y * torch.linspace(-1, 2, y.numel(), dtype=dtype).view_as(y)).sum(), [x, *features.parameters()]
        )
        results.append([y, *gradients, features[2].running_mean, features[2].running_var])
    for folded, in_a_row in zip(*results, strict=True):
        scale = in_a_row.abs().max()
        assert (folded - in_a_row).abs().max() <= tolerance * scale


def test_folding_saves_the_multiply_adds_of_the_reduction():
    def flops(folds):
        features = ConvFeatures(1, kernel_size=3, reduce_channels=8, channels=4)
        features.folds = folds
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features(torch.zeros(2, 1, 8, 8))
        return counter.get_total_flops() // 2

    assert flops(False) == 2 * 64 * (8 + 8 * 4 * 9)
    assert flops(True) == 2 * 64 * 4 * 9 + 4 * 9 * 8  # the convolution, and the product of the two weights


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def prune_later(features):
    prune.random_unstructured(features[1], "weight", 0.5)
    with torch.no_grad():
        features[1].weight_orig.mul_(2)  # only a call of the layer masks it anew


REPLACEMENTS = {
    "watched": lambda features: features[0].register_forward_hook(lambda *_: None),
    "watched before": lambda features: features[1].register_forward_pre_hook(lambda *_: None),
    "watched backward": lambda features: features[1].register_full_backward_hook(lambda *_: None),
    "pruned": prune_later,
    "parametrized": lambda features: parametrize.register_parametrization(features[0], "weight", Half()),
    "with a bias": lambda features: features.__setitem__(1, nn.Conv2d(2, 4, 3, padding=1)),
    "dilated": lambda features: features.__setitem__(1, nn.Conv2d(2, 4, 3, padding=2, dilation=2, bias=False)),
    "grouped": lambda features: features.__setitem__(1, nn.Conv2d(2, 4, 3, padding=1, groups=2, bias=False)),
    "reflecting": lambda features: features.__setitem__(
        1, nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", bias=False)
    ),
    "3x3 first": lambda features: features.__setitem__(0, nn.Conv2d(1, 2, 3, padding=1, bias=False)),
    "strided first": lambda features: features.__setitem__(0, nn.Conv2d(1, 2, 1, stride=2, bias=False)),
}


@pytest.mark.parametrize("change", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_a_convolution_that_is_more_than_its_weight_runs_by_itself(change, monkeypatch):
    features = ConvFeatures(1, kernel_size=3, reduce_channels=2, channels=4).eval()
    change(features)
    x = torch.randn(2, 1, 8, 8)
    expected = functional.leaky_relu(features[2](features[1](features[0](x))))
    monkeypatch.setattr("primenet_lightning.nn.fast.fold", lambda *_: pytest.fail("folded"))
    torch.testing.assert_close(features(x), expected)


def test_under_autocast_the_weights_are_multiplied_in_float32():
    features = ConvFeatures(1, kernel_size=3, reduce_channels=8, channels=4)
    exact = torch.einsum("orhw,rc->ochw", features[1].weight.double(), features[0].weight[:, :, 0, 0].double())
    with torch.autocast("cpu", torch.bfloat16):
        folded = fold(features[0], features[1])
        assert features(torch.randn(2, 1, 8, 8)).dtype == torch.bfloat16
    assert folded.dtype == torch.float32
    torch.testing.assert_close(folded.double(), exact, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 2), (1, 4)], ids=str)
@pytest.mark.parametrize("channels", [1, 12])
def test_maps_are_halved_as_torch_halves_them_with_and_without_gradient(size, channels):
    x = channels_last(torch.randn(2, channels, *size))
    x[0, 0, 0, 0] = torch.nan
    if min(size) < 2:
        with pytest.raises(RuntimeError, match="Output size is too small"):
            halve(x)
        return
    expected = functional.max_pool2d(x, 2)
    torch.testing.assert_close(halve(x), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(halve(x.clone().requires_grad_()).detach(), expected, rtol=0, atol=0, equal_nan=True)
    assert halve(x).stride() == expected.stride()


def test_many_channels_are_pooled_as_torch_pools_them_too():
    x = channels_last(torch.randn(2, 20, 9, 8))
    pool = nn.MaxPool2d(3, stride=(2, 1), padding=1)
    assert torch.equal(run_pool(pool, x), pool(x))
    assert run_pool(pool, x).stride() == pool(x).stride()


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


def test_hooks_of_a_classifiers_layers_are_called_for_either_layout():
    classifier, seen = FlattenClassifier(3, (4, 5), 7), []
    classifier[1].register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    x = torch.randn(8, 3, 4, 5)
    first, second = classifier(x), classifier(x.contiguous(memory_format=torch.channels_last))
    assert seen == [(8, 60), (8, 60)]
    torch.testing.assert_close(first, second)
