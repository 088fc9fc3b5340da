"""The plain network of one scale has the parameters of the PrimeNet that predicts."""

import dataclasses

import pytest
import torch

from primenet_lightning import PrimeNetwork, architecture
from primenet_lightning.baselines import OneScale, OneScaleNetwork, matching_channels, predicting_parameters


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def by_formula(shape, k, widths, channels):
    """1x1 and k x k convolution, batch norm; the head's batch norm, 3x3 convolution and dense layer."""
    reduced, wide = widths.reduce_channels, widths.head_channels
    cells = (shape[1] // widths.stride // 4) * (shape[2] // widths.stride // 4)
    features = shape[0] * reduced + reduced * channels * k * k + 2 * channels
    return features + 2 * channels + channels * wide * 9 + wide + wide * cells * 10 + 10


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize(
    ("size", "shape"),
    [("compact", (1, 8, 8)), ("compact", (1, 28, 28)), ("compact", (3, 32, 32)), ("paper", (1, 8, 8))],
)
def test_the_width_is_the_best_of_all(size, shape, kernel_size):
    widths = architecture(size, shape[1:])
    whole = PrimeNetwork.build(shape[0], shape[1:], 10, widths)
    (block,) = whole.prime_blocks
    target = parameters(block.capsules[f"k{kernel_size}"].features, block.projection, whole.head)
    assert predicting_parameters(shape, 10, kernel_size, widths) == target
    distance = {c: abs(by_formula(shape, kernel_size, widths, c) - target) for c in range(1, 300)}
    best = min(distance, key=distance.get)
    assert matching_channels(shape, 10, kernel_size, widths) == best
    model = OneScale(shape[0], shape[1:], 10, kernel_size, size)
    assert parameters(model) == by_formula(shape, kernel_size, widths, best)
    assert abs(parameters(model) - target) / target < 0.02
    assert model.eval()(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_network_smaller_than_the_least_one_is_matched_by_it():
    widths = dataclasses.replace(architecture("compact", (8, 8)), channels=1, projection_channels=0)
    assert matching_channels((1, 8, 8), 10, 3, widths) == 1


def test_it_is_capsule_and_head_without_a_projection():
    """The same numbers as PrimeNet's own parts with the same weights."""
    widths = dataclasses.replace(architecture("compact", (28, 28)), projection_channels=0)
    whole = PrimeNetwork.build(1, (28, 28), 10, widths).eval()
    plain = OneScaleNetwork((1, 28, 28), 10, 5, widths).eval()
    plain.features.load_state_dict(whole.prime_blocks[0].capsules["k5"].features.state_dict())
    plain.head.load_state_dict(whole.head.state_dict())
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(plain(images), whole(images, (1,)))


def test_a_width_may_be_given_and_impossible_ones_are_refused():
    assert OneScale(channels=5).network.model.features[1].out_channels == 5
    with pytest.raises(ValueError, match="kernel_size=4 must be odd"):
        OneScale(kernel_size=4)
    with pytest.raises(ValueError, match="channels=0 must be at least 1"):
        OneScale(channels=0)
    with pytest.raises(ValueError, match="size='huge' is unknown"):
        OneScale(size="huge")
