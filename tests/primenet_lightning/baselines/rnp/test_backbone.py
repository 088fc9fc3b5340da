"""The prunable network against networks that are cut physically, and its cost against torch's counter."""

import itertools

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning.baselines.rnp import PrunableConvNet


class Prescribed:
    """Chooses what it is told, whatever it sees; groups, ``(batch, layers)``."""

    def __init__(self, chosen):
        self.chosen = list(chosen.unbind(1)[1:])

    def __call__(self, x):
        return self.chosen.pop(0)


def small():
    network = PrunableConvNet((2, 8, 8), 3, widths=(4, 8, 4), pool_after=(1,))
    for convolution in network.convolutions:
        convolution.bias.data.normal_()
    return network


def mixed(network, count=12):
    chosen = torch.randint(1, network.groups + 1, (count, network.layers))
    chosen[:, 0] = network.groups
    return chosen


def cut(network, x, chosen):
    """One image through a network cut to its channels, both sides."""
    before = x.shape[1]
    for layer, convolution in enumerate(network.convolutions):
        after = network.widths[layer] * int(chosen[layer]) // network.groups
        weight = convolution.weight[:after, :before]
        x = functional.conv2d(x, weight, convolution.bias[:after], padding=1).relu()
        if layer + 1 in network.pool_after:
            x = functional.max_pool2d(x, 2)
        before = after
    return functional.linear(x.mean((2, 3)), network.classifier.weight[:, :before], network.classifier.bias)


@torch.no_grad()
def test_masked_and_computed_are_the_network_that_is_cut_image_by_image():
    network, images = small(), torch.randn(12, 2, 8, 8)
    chosen = mixed(network)
    masked = network(images, Prescribed(chosen))
    computed, groups = network.compute(images, Prescribed(chosen))
    assert torch.equal(groups, chosen)
    for image in range(12):
        expected = cut(network, images[image : image + 1], chosen[image])[0]
        torch.testing.assert_close(masked[image], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(computed[image], expected, rtol=1e-5, atol=1e-6)
    whole = torch.full_like(chosen, network.groups)
    torch.testing.assert_close(network.compute(images, Prescribed(whole))[0], network(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_masked_channel_is_zero_after_bias_and_activation(layer):
    network = small()
    network.convolutions[layer].bias.data.fill_(5.0)  # ReLU(bias) would go on
    channels = network.convolutions[layer].in_channels
    for groups in range(1, 5):
        maps = network.layer(layer, torch.randn(2, channels, 8, 8), torch.full((2,), groups))
        computed = network.widths[layer] * groups // 4
        assert (maps[:, :computed] > 0).any(dim=(0, 2, 3)).all() if computed else True
        assert not maps[:, computed:].any()


def test_the_filters_of_a_masked_channel_get_no_gradient_from_that_image():
    network = small()
    for convolution in network.convolutions:
        convolution.weight.data.mul_(0.1)
        convolution.bias.data.fill_(5.0)  # no ReLU is closed
    chosen = torch.tensor([[4, 2, 1]])
    network(torch.randn(1, 2, 8, 8), Prescribed(chosen)).square().sum().backward()
    for layer, computed in ((1, 4), (2, 1)):
        gradient = network.convolutions[layer].weight.grad
        assert not gradient[computed:].any()
        assert gradient[:computed].any()
        assert not network.convolutions[layer].bias.grad[computed:].any()


def test_cost_is_the_one_written_out():
    network = PrunableConvNet((1, 28, 28), 10, widths=(8, 32, 32, 32), pool_after=(1, 2))
    costs = []
    for groups in range(1, 5):
        chosen = torch.tensor([[4, groups, groups, groups]])
        costs.append(network.convolution_cost(chosen).item())
    assert costs == [225_792, 508_032, 903_168, 1_411_200]
    for chosen in itertools.product(range(1, 4), repeat=3):
        base = network.convolution_cost(torch.tensor([[4, *chosen]])).item()
        for layer in range(3):
            more = [4, *chosen]
            more[layer + 1] += 1
            assert network.convolution_cost(torch.tensor([more])).item() > base


def test_cost_is_what_the_counter_counts():
    network, images = small(), torch.randn(12, 2, 8, 8)
    chosen = mixed(network)
    with FlopCounterMode(display=False) as counter:
        network.compute(images, Prescribed(chosen))
    cost = network.convolution_cost(chosen) + network.classifier_cost(chosen)
    assert cost.sum().item() == counter.get_total_flops() / 2
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cut(network, images[:1], chosen[0])
    assert cost[0].item() == counter.get_total_flops() / 2


def test_impossible_networks_are_refused():
    for options, words in (
        (dict(widths=(4, 6)), r"widths=\[4, 6\] has 6, which does not divide into groups=4"),
        (dict(widths=(4,)), r"widths=\[4\] are too few"),
        (dict(widths=(4, 4), pool_after=(3,)), r"pool_after=\[3\] has 3, but .* from 1 to 2"),
        (dict(widths=(4, 4), pool_after=(1, 2), in_shape=(1, 2, 2)), "height=0 must be at least 1 pixel of map"),
        (dict(widths=(4, 4), groups=1, pool_after=()), "groups=1 must be at least 2"),
    ):
        arguments = {"in_shape": (1, 8, 8), "num_classes": 3, **options}
        with pytest.raises(ValueError, match=words):
            PrunableConvNet(**arguments)
