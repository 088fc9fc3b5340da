"""He et al.'s residual networks for small images."""

import itertools

from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.argument_types import CheckedArguments


def he_(module: nn.Module) -> nn.Module:
    """Initialise every convolution as residual networks are, by He et al.'s normal distribution over the outputs.

    Args:
        module: Changed in place.

    Returns:
        The same module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return module


class SmallImageResNet(nn.Module, metaclass=CheckedArguments):
    """He et al.'s ResNet for 32x32 images (section 4.2 of their paper), shortcuts without parameters.

    A 3x3 convolution, three groups of residual blocks of 16, 32 and 64 channels, average pooling and a dense layer.

    Args:
        depth: Layers with weights: 6 n + 2, with n blocks a group; 20, 32, 44, 56 or 110.
        in_channels: Channels of the images, whose size may be any.
        classes: Number of classes.
        width: Channels of the first group; the paper has 16.

    Raises:
        ValueError: If there is no network of such a depth.

    Example:
        >>> import torch
        >>> network = SmallImageResNet(32)
        >>> network(torch.zeros(2, 3, 32, 32)).shape, sum(parameter.numel() for parameter in network.parameters())
        (torch.Size([2, 10]), 464154)
    """

    def __init__(self, depth: int, in_channels: int = 3, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth={depth} must be 6 n + 2 with n blocks a group: 20, 32, 44, 56, ...")
        blocks = depth // 6
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        widths = [width] * (blocks + 1) + [2 * width] * blocks + [4 * width] * blocks
        self.blocks = nn.Sequential(*(Residual(a, b) for a, b in itertools.pairwise(widths)))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))
        he_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        logits: Tensor = self.classifier(self.blocks(self.stem(x)))
        return logits


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which subsamples and pads with zeros where the width doubles.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output, as many or twice as many.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = channels // in_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=self.stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut to what the layers make of the map.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, channels, height / stride, width / stride)``, rounded up.
        """
        y = self.layers(x)
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return functional.relu(y + shortcut)
