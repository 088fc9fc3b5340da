"""The network that begins with whitening."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.models.backbones import build_backbone
from primenet_lightning.nn.cutting.network import CutNetwork, UncutNetwork
from primenet_lightning.nn.whitened import ConvGroup, DiracConv2d, MaximumClassifier, ShiftNorm2d, WhitenedNetwork
from primenet_lightning.training.runner import StageRunner


@pytest.mark.parametrize(("channels", "widths"), [(3, (64, 256, 256)), (3, (32, 96, 128)), (1, (8, 16)), (2, (5,))])
def test_the_parameters_are_counted_by_a_formula(channels, widths):
    whitened = 2 * channels * 4
    count = whitened * channels * 4 + whitened
    before = whitened
    for width in widths:
        count += 9 * before * width + 9 * width * width + 2 * width
        before = width
    count += 10 * before
    network = WhitenedNetwork(channels, (32, 32), widths=widths)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_small_one_stays_below_its_bound():
    network = WhitenedNetwork(3, (32, 32), widths=(32, 96, 128))
    assert sum(parameter.numel() for parameter in network.parameters()) <= 410_000


def test_it_is_the_plain_loop_over_its_weights():
    torch.manual_seed(0)
    network = WhitenedNetwork(3, (16, 16), widths=(8, 12))
    x = torch.randn(6, 3, 16, 16)
    y = functional.gelu(functional.conv2d(x, network.whiten.weight, network.whiten.bias))
    for group in network.groups:
        for number, pools in ((1, True), (2, False)):
            y = functional.conv2d(y, getattr(group, f"conv{number}").weight, padding=1)
            if pools:
                y = functional.max_pool2d(y, 2)
            mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, unbiased=False)
            shift = getattr(group, f"norm{number}").bias.view(1, -1, 1, 1)
            y = functional.gelu((y - mean) / (variance + 1e-12).sqrt() + shift)
    logits = y.amax((2, 3)) @ network.classifier.linear.weight.T / 9
    torch.testing.assert_close(network(x), logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("taken", "given"), [(3, 8), (8, 8)])
def test_convolutions_begin_as_the_identity(taken, given):
    layer = DiracConv2d(taken, given, 3, padding=1, bias=False)
    x = torch.randn(2, taken, 7, 7)
    torch.testing.assert_close(layer(x)[:, :taken], x)
    if given > taken:
        assert layer.weight[taken:].std() > 0


def test_a_convolution_to_fewer_channels_passes_on_the_first():
    layer = DiracConv2d(8, 3, 3, padding=1, bias=False)
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(layer(x), x[:, :3])


def test_without_dirac_convolutions_begin_as_usual():
    group = ConvGroup(4, 4, dirac=False)
    assert type(group.conv1) is nn.Conv2d


def test_the_norm_adds_and_does_not_scale():
    torch.manual_seed(0)
    norm = ShiftNorm2d(5, momentum=0.4)
    x = 3 * torch.randn(16, 5, 4, 4) + 2
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), unbiased=False), torch.ones(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.running_mean, 0.4 * x.mean((0, 2, 3)))
    assert list(norm.state_dict()) == ["bias", "running_mean", "running_var", "num_batches_tracked"]
    assert copy.deepcopy(norm).weight.tolist() == [1.0] * 5


def test_equal_maxima_teach_one_place_only():
    classifier = MaximumClassifier(1, 2)
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    classifier(x)[0, 0].backward()
    assert x.grad is not None
    assert x.grad.count_nonzero() == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": ()}, "leaves no group"),
        ({"widths": (4, 0)}, "widths=0 must be at least 1 channel"),
        ({"image_size": (8, 8), "widths": (4, 4, 4)}, "images of at least 9 pixels"),
        ({"logit_scale": 0.0}, "logit_scale=0.0 must be above 0"),
        ({"kernel_size": 0}, "kernel_size=0 must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        WhitenedNetwork(3, **options)


def test_the_smallest_images_that_fit_leave_one_pixel():
    assert WhitenedNetwork(1, (9, 9), widths=(2, 2, 2))(torch.randn(2, 1, 9, 9)).shape == (2, 10)


@pytest.mark.parametrize("places", [{"at": ["groups.1"]}, {"at": ["groups.1", "groups.2"]}, {"parts": 2}, {"parts": 3}])
def test_it_is_cut_by_name_and_by_number(places):
    model = build_backbone("whitened", (3, 32, 32), 10, options={"widths": (8, 8, 8)})
    network = CutNetwork(model, (3, 32, 32), recipe="auglocal", **places)
    assert len(network.loss_names) == 1 + len(places.get("at", [None] * (places.get("parts", 1) - 1)))
    x = torch.randn(3, 3, 32, 32)
    network.eval()
    torch.testing.assert_close(network(x), model(x))


RECIPE = {
    "auglocal": {
        "depth": 2,
        "width": [0.5, 1.0],
        "blocks": "shrinking",
        "ending": "copy",
        "direct": True,
        "label_smoothing": [0.3, 0.2],
    }
}
"""Of three parts, with softer targets for the first."""


def cut_in_three():
    torch.manual_seed(0)
    model = WhitenedNetwork(3, (16, 16), num_classes=5, widths=(8, 12, 12))
    network = CutNetwork(model, (3, 16, 16), at=["groups.1", "groups.2"], recipe=RECIPE, label_smoothing=0.2)
    return network, torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])


def shrunk(x, weight, bias):
    """A block of the local classifiers: convolution, pooling, norm, GELU."""
    y = functional.max_pool2d(functional.conv2d(x, weight, padding=1), 2)
    return functional.gelu(functional.batch_norm(y, None, None, None, bias, training=True, eps=1e-12))


def smoothed(logits, target, share):
    """Cross-entropy against softened targets, written out."""
    wanted = functional.one_hot(target, 5) * (1 - share) + share / 5
    return -(wanted * logits.log_softmax(1)).sum(1).mean()


def test_the_gradients_of_a_step_are_those_of_a_plain_loop():
    network, x, target = cut_in_three()
    plain, _, _ = cut_in_three()
    StageRunner(network).run(x, target)
    # by hand
    losses = []
    y = functional.gelu(plain.backbone.whiten(x))
    for place, group in enumerate(plain.backbone.groups):
        y = group(y)
        features = y
        if place < 2:
            objective = plain.objectives[place]
            weights = [value for value in objective.parameters() if value.dim() == 4]
            biases = [value for value in objective.parameters() if value.dim() == 1]
            for weight, bias in zip(weights, biases, strict=True):
                features = shrunk(features, weight, bias)
            (dense,) = [value for value in objective.parameters() if value.dim() == 2]
        else:
            dense = plain.backbone.classifier.linear.weight
        logits = features.amax((2, 3)) @ dense.T / 9
        losses.append(smoothed(logits, target, [0.3, 0.2, 0.2][place]))
        y = y.detach()
    sum(losses).backward()
    for (name, value), expected in zip(network.named_parameters(), plain.parameters(), strict=True):
        if value.requires_grad:
            torch.testing.assert_close(value.grad, expected.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_the_loss_of_each_part_reaches_that_part_alone():
    for chosen in range(3):
        network, x, target = cut_in_three()
        outputs = []
        for stage in network.stages:
            outputs += stage.run_learners(x, target)
            x = stage.hand_on(x, outputs[-1:], 0)
        outputs[chosen].loss.backward()
        for place, (name, parameters) in enumerate(network.learners().items()):
            reached = [parameter.grad is not None for parameter in parameters]
            assert all(reached) if place == chosen else not any(reached), name


def test_the_twin_has_the_same_smoothing():
    torch.manual_seed(0)
    model = WhitenedNetwork(3, (16, 16), num_classes=5, widths=(8, 12))
    x, target = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])
    twin = UncutNetwork(model, (3, 16, 16), label_smoothing=0.2)
    torch.testing.assert_close(twin.evaluate(x, target).losses["head"], smoothed(model(x), target, 0.2))
