"""Modules with a share of their channels."""

import torch
from torch import nn

from primenet_lightning.nn.cutting.slimming import slim


def test_shapes_and_statistics_shrink_together():
    block = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 12),
    )
    kept = block[0].weight[:8, :4].clone()
    slim(block, 0.5)
    assert torch.equal(block[0].weight, kept)
    assert block[2].groups == 8
    assert block(torch.randn(3, 4, 5, 5)).shape == (3, 6)
    block.train()(torch.randn(3, 4, 5, 5)).sum().backward()
    shapes = {name: tuple(value.shape) for name, value in block.state_dict().items()}
    assert shapes["1.running_var"] == (8,)
    assert shapes["2.weight"] == (8, 1, 3, 3)
    assert shapes["5.bias"] == (8,)


def test_grouped_convolutions_keep_their_groups():
    layer = slim(nn.Conv2d(32, 32, 3, groups=4), 0.5)
    assert layer(torch.randn(2, 16, 3, 3)).shape == (2, 16, 1, 1)
    assert layer.groups == 4
    assert slim(torch.ones(4), 0.5).shape == (4,)
