"""Residual networks for small images."""

import pytest
import torch
from torch import nn

from primenet_lightning.nn.resnets import SmallImageResNet


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_the_papers(depth, millions):
    with torch.device("meta"):
        network = SmallImageResNet(depth)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_width_and_depth_may_be_others():
    network = SmallImageResNet(8, in_channels=1, classes=4, width=3)
    assert network(torch.zeros(2, 1, 9, 9)).shape == (2, 4)
    with pytest.raises(ValueError, match="depth=18 must be 6 n"):
        SmallImageResNet(18)
