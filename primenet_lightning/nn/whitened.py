"""A small convolutional network that learns fast, after K. Jordan's for CIFAR-10."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.whitening import Whitening


class WhitenedNetwork(nn.Module):
    """A whitening convolution, groups of two 3x3 convolutions that halve the maps, and a dense layer over the maxima.

    K. Jordan: 94 % on CIFAR-10 in 3.29 seconds on a single GPU, 2024; with the default widths it is his
    ``airbench94``. Convolutions begin as the identity on their first channels, batch norms learn a bias and no scale,
    and logits are multiplied by a ninth.

    The first layer wants the training images, see `Whitening`.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        widths: Channels of each group.
        kernel_size: Height and width of the patches that are whitened, in pixels.
        dirac: Whether convolutions begin as the identity on their first channels.
        momentum: Share of a batch in the running statistics of batch norms.
        logit_scale: That logits are multiplied by.

    Attributes:
        whiten: The whitening convolution.
        groups: A `ConvGroup` of each width; the network can be cut before each: ``at=["groups.1"]``.
        classifier: From the last group's maps to logits.

    Raises:
        ValueError: If there are no groups, or more than the images can be halved.

    Example:
        >>> network = WhitenedNetwork(3, (32, 32))
        >>> sum(parameter.numel() for parameter in network.parameters())
        1971640
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        num_classes: int = 10,
        widths: Sequence[int] = (64, 256, 256),
        kernel_size: int = 2,
        dirac: bool = True,
        momentum: float = 0.4,
        logit_scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths=[] leaves no group; give the channels of at least one, such as [64, 256, 256]")
        at_least(1, "channel", widths=min(widths))
        smallest = 2 ** len(widths) + kernel_size - 1
        if min(image_size) < smallest:
            raise ValueError(
                f"widths={list(widths)} halve the maps {len(widths)} times, for which images of {image_size[0]} by "
                f"{image_size[1]} pixels are too small; give fewer widths, or images of at least {smallest} pixels"
            )
        self.whiten = Whitening(in_channels, kernel_size)
        self.activation = nn.GELU()
        groups: list[nn.Module] = []
        channels = self.whiten.out_channels
        for width in widths:
            groups.append(ConvGroup(channels, width, dirac, momentum))
            channels = width
        self.groups = nn.Sequential(*groups)
        self.classifier = MaximumClassifier(channels, num_classes, logit_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: Images, normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        x = self.activation(self.whiten(x))
        logits: Tensor = self.classifier(self.groups(x))
        return logits


class ConvGroup(nn.Sequential):
    """3x3 convolution, 2x2 maximum pooling, batch norm, GELU, and once more without pooling.

    Args:
        in_channels: Channels of the maps that it takes.
        channels: Filters of both convolutions.
        dirac: Whether these begin as the identity on their first channels.
        momentum: Of the batch norms.

    Example:
        >>> ConvGroup(24, 64)(torch.zeros(2, 24, 31, 31)).shape
        torch.Size([2, 64, 15, 15])
    """

    def __init__(self, in_channels: int, channels: int, dirac: bool = True, momentum: float = 0.4) -> None:
        convolution = DiracConv2d if dirac else nn.Conv2d
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", convolution(in_channels, channels, 3, padding=1, bias=False)),
            ("pool", nn.MaxPool2d(2)),
            ("norm1", ShiftNorm2d(channels, momentum)),
            ("activation1", nn.GELU()),
            ("conv2", convolution(channels, channels, 3, padding=1, bias=False)),
            ("norm2", ShiftNorm2d(channels, momentum)),
            ("activation2", nn.GELU()),
        ]
        super().__init__(OrderedDict(layers))


class DiracConv2d(nn.Conv2d):
    """A convolution whose first filters begin as the identity, one for each channel that it takes.

    Arguments are those of `torch.nn.Conv2d`. Filters beyond the channels that it takes begin as usual.

    Example:
        >>> layer = DiracConv2d(3, 8, 3, padding=1, bias=False)
        >>> x = torch.randn(2, 3, 8, 8)
        >>> torch.equal(layer(x)[:, :3], x)
        True
    """

    def reset_parameters(self) -> None:
        """Begin as the identity on the first channels."""
        super().reset_parameters()
        with torch.no_grad():
            nn.init.dirac_(self.weight[: self.in_channels])


class ShiftNorm2d(nn.BatchNorm2d):
    """Batch norm that learns a bias and no scale.

    Args:
        num_features: Channels of the maps.
        momentum: Share of a batch in the running statistics.
        eps: Added to the variance.

    Example:
        >>> layer = ShiftNorm2d(8)
        >>> [name for name, _ in layer.named_parameters()]
        ['bias']
    """

    def __init__(self, num_features: int, momentum: float = 0.4, eps: float = 1e-12) -> None:
        super().__init__(num_features, eps, momentum)
        del self.weight
        # ones, since torch normalises maps on a CPU in half as much time again without any weight
        self.register_buffer("weight", torch.ones(num_features), persistent=False)


class MaximumClassifier(nn.Module):
    """The maximum of each map, a dense layer without bias, and logits scaled.

    Args:
        channels: Channels of the maps.
        num_classes: Number of classes.
        logit_scale: That logits are multiplied by.

    Raises:
        ValueError: If ``logit_scale`` is not above 0.

    Example:
        >>> MaximumClassifier(8, 10)(torch.zeros(2, 8, 3, 3)).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: int, num_classes: int, logit_scale: float = 1 / 9) -> None:
        super().__init__()
        if not (logit_scale > 0 and math.isfinite(logit_scale)):
            raise ValueError(f"logit_scale={logit_scale} must be above 0 and finite: logits are multiplied by it")
        self.linear = nn.Linear(channels, num_classes, bias=False)
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: Maps, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        maxima = functional.adaptive_max_pool2d(x, 1).flatten(1)
        logits: Tensor = self.linear(maxima) * self.logit_scale
        return logits

    def extra_repr(self) -> str:
        """The scale, for ``print``."""
        return f"logit_scale={self.logit_scale:.4g}"
