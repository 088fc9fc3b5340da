"""Networks of torchvision's modules for small images."""

import itertools

import pytest
import torch
from torch import nn

from primenet_lightning.nn.small_images import convnext, densenet_bc, vit_tiny


@pytest.mark.parametrize(("depth", "growth", "millions"), [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)])
def test_densenets_are_as_large_as_the_papers(depth, growth, millions):
    with torch.device("meta"):
        network = densenet_bc((3, 32, 32), 10, depth, growth)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_densenets_subsample_at_their_two_transitions_alone():
    network = densenet_bc((2, 12, 16), 5, depth=10, growth=4).eval()
    assert network.features(torch.zeros(1, 2, 12, 16)).shape[2:] == (3, 4)
    assert network(torch.zeros(3, 2, 12, 16)).shape == (3, 5)


def test_the_vision_transformer_is_as_large_as_deits_but_for_its_patches():
    with torch.device("meta"):
        network = vit_tiny((3, 32, 32), 1000)
    deit = 5_717_416  # of 16x16 patches and 224x224 pixels
    patches, positions = 192 * 3 * (16**2 - 4**2), 192 * (197 - 65)
    assert sum(parameter.numel() for parameter in network.parameters()) == deit - patches - positions


@pytest.mark.parametrize("build", [vit_tiny, convnext])
def test_channels_and_classes_are_those_asked_for(build):
    network = build((1, 16, 16), 7).eval()
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 7)


def test_convnext_is_timms_atto_but_for_its_patches():
    """Counted by hand: a stem, stages of blocks of 7x7 depthwise and 1x1 convolutions, and three subsamplings."""
    with torch.device("meta"):
        network = convnext((3, 32, 32), 1000)
    widths, depths = (40, 80, 160, 320), (2, 2, 6, 2)
    stem = 3 * 2 * 2 * 40 + 40 + 2 * 40
    blocks = sum(
        count * (49 * width + width + 2 * width + 4 * width * width + 4 * width + 4 * width * width + width + width)
        for width, count in zip(widths, depths, strict=True)
    )
    between = sum(2 * a + 4 * a * b + b for a, b in itertools.pairwise(widths))
    head = 2 * 320 + 320 * 1000 + 1000
    assert sum(parameter.numel() for parameter in network.parameters()) == stem + blocks + between + head


@pytest.mark.parametrize(
    ("build", "options", "sentence"),
    [
        (densenet_bc, {"depth": 101}, "depth=101 must be 6 n"),
        (densenet_bc, {"growth": 0}, "growth=0 must be at least 1"),
        (vit_tiny, {"patch": 5}, "32 by 32 pixels do not divide into a square of 5x5 patches"),
        (vit_tiny, {"in_shape": (3, 32, 16)}, "32 by 16 pixels do not divide"),
        (convnext, {"in_shape": (3, 8, 8)}, "8 by 8 pixels are too small for patch=2"),
    ],
)
def test_impossible_networks_are_refused(build, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**{"in_shape": (3, 32, 32)} | options)
