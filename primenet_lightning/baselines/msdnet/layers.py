"""What MSDNet is made of: convolutions with batch norm and ReLU, and what a layer adds to one scale."""

import torch
from torch import Tensor, nn

from primenet_lightning.baselines.msdnet.plan import Plan


def convolution(in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution without bias, batch norm and ReLU.

    Args:
        in_channels: Of the input.
        channels: Of the output.
        kernel_size: Odd; the border is padded by half of it.
        stride: Of the convolution.

    Returns:
        The three in a row.
    """
    layer = nn.Conv2d(in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


def bottlenecked(in_channels: int, channels: int, factor: int, stride: int = 1) -> nn.Sequential:
    """Build a 1x1 and a 3x3 convolution, each with batch norm and ReLU.

    Args:
        in_channels: Of the input.
        channels: Of the output.
        factor: The 1x1 convolution has so many times the channels of the output, at most those of the input.
        stride: Of the 3x3 convolution.

    Returns:
        The layers in a row.
    """
    width = min(in_channels, factor * channels)
    return nn.Sequential(*convolution(in_channels, width, 1), *convolution(width, channels, 3, stride))


class Growth(nn.Module):
    """What one layer adds to one scale: maps from all those before it, of this scale and of the next finer one.

    Args:
        plan: Of the network.
        layer: Which, from 1.
        scale: Which, from 0.

    Example:
        >>> growth = Growth(Plan(), layer=1, scale=1)
        >>> growth(torch.zeros(2, 16, 8, 8), torch.zeros(2, 32, 4, 4)).shape
        torch.Size([2, 44, 4, 4])
    """

    def __init__(self, plan: Plan, layer: int, scale: int) -> None:
        super().__init__()
        width, factor = plan.width(layer), plan.factor(scale)
        new = plan.growth * factor
        self.down: nn.Module | None = None
        if scale > plan.finest(layer - 1):  # the layer before has maps of the finer scale
            finer_width, finer_factor = width * plan.factor(scale - 1), plan.factor(scale - 1)
            half = new // 2
            self.down = bottlenecked(finer_width, half, finer_factor, stride=2)
            new -= half
        self.same = bottlenecked(width * factor, new, factor)
        self.transition: nn.Module | None = None
        if plan.drops(layer):
            grown = (width + plan.growth) * factor
            self.transition = convolution(grown, plan.width(layer + 1) * factor, 1)

    def forward(self, finer: Tensor | None, x: Tensor) -> Tensor:
        """Add this layer's maps.

        Args:
            finer: All maps of the next finer scale, ``(batch, channels, height, width)``; None at the finest.
            x: All maps of this scale, ``(batch, channels, height, width)``.

        Returns:
            The same with those of this layer, ``(batch, channels, height, width)``.
        """
        maps = [x]
        if self.down is not None:
            maps.append(self.down(finer))
        maps.append(self.same(x))
        joined = torch.cat(maps, dim=1)
        return joined if self.transition is None else self.transition(joined)


def exit_features(in_channels: int, channels: int) -> nn.Sequential:
    """Build what an exit classifies the features of: two convolutions of stride 2, and average pooling.

    Args:
        in_channels: Of the maps.
        channels: Of the features.

    Returns:
        From maps, ``(batch, in_channels, height, width)``, to features, ``(batch, channels)``.

    Example:
        >>> exit_features(64, 128)(torch.zeros(2, 64, 8, 8)).shape
        torch.Size([2, 128])
    """
    return nn.Sequential(
        convolution(in_channels, channels, stride=2),
        convolution(channels, channels, stride=2),
        nn.AdaptiveAvgPool2d(1),  # of images of 28 to 32 pixels 2x2, as in the paper
        nn.Flatten(),
    )
