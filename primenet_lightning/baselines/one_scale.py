"""The plain network of one scale that figure 7 compares PrimeNet with."""

import dataclasses
from bisect import bisect_left
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.classifiers import ClassifierHead
from primenet_lightning.nn.prime.architecture import Architecture, Size, architecture
from primenet_lightning.nn.prime.capsules import ConvFeatures
from primenet_lightning.nn.prime.projection import Projection
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable


class OneScaleNetwork(nn.Module, metaclass=CheckedArguments):
    """1x1 convolution, k x k convolution, batch norm, LeakyReLU; then PrimeNet's head. No projection.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        kernel_size: The scale.
        widths: A size of PrimeNet, of which ``reduce_channels``, ``channels``, ``stride`` and ``head_channels`` are
            read.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> network = OneScaleNetwork((1, 28, 28), 10, 5, architecture("compact", (28, 28)))
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, in_shape: tuple[int, int, int], num_classes: int, kernel_size: int, widths: Architecture
    ) -> None:
        super().__init__()
        channels = widths.of_block("channels", 0)
        self.features = _features(in_shape, kernel_size, widths)
        self.head = ClassifierHead(channels, _map_size(in_shape, widths), num_classes, widths.head_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        logits: Tensor = self.head(self.features(x))
        return logits


class OneScale(EndToEnd):
    """A plain convolutional network of one scale, as large as the PrimeNet that predicts, trained end to end.

    "Of matching size" is read so: PrimeNet's parameters are counted when the capsule of the same kernel size is
    routed, which are those of this capsule's features, of the projection and of the head; neither local classifiers
    nor the other capsules, which serve training only. Stride, 1x1 convolution and the head's convolution are
    PrimeNet's. The width of the map is the one that brings the count nearest.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        kernel_size: The scale: 3, 5, 7, or another odd number.
        size: The size of PrimeNet to match, see `primenet_lightning.nn.prime.architecture.architecture`.
        channels: Channels of the feature map; None matches the parameters.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Raises:
        ValueError: If ``kernel_size`` is even or ``channels`` is below 1, or the size is unknown.

    Example:
        >>> model = OneScale(1, (28, 28), 10, kernel_size=5)
        >>> sum(p.numel() for p in model.parameters())
        39726
        >>> predicting_parameters((1, 28, 28), 10, 5, architecture("compact", (28, 28)))
        39730
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        kernel_size: int = 3,
        size: Size = "compact",
        channels: int | None = None,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size={kernel_size} must be odd and positive; give 3, 5 or 7")
        if channels is not None and channels < 1:
            raise ValueError(f"channels={channels} must be at least 1, or None to match PrimeNet's parameters")
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)

    def configure_backbone(self) -> OneScaleNetwork:
        """Build the network, of the width given or found."""
        kernel_size, channels = self.hparams["kernel_size"], self.hparams["channels"]
        widths = architecture(self.hparams["size"], self.in_shape[1:])
        if channels is None:
            channels = matching_channels(self.in_shape, self.num_classes, kernel_size, widths)
        widths = dataclasses.replace(widths, channels=channels)
        return OneScaleNetwork(self.in_shape, self.num_classes, kernel_size, widths)


def predicting_parameters(
    in_shape: tuple[int, int, int], num_classes: int, kernel_size: int, widths: Architecture
) -> int:
    """Count the parameters of the PrimeNet of one block that predicts: the routed capsule's features, projection, head.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        kernel_size: Of the routed capsule.
        widths: PrimeNet's size.

    Returns:
        Parameters.
    """
    channels, projected = widths.of_block("channels", 0), widths.of_block("projection_channels", 0)
    with torch.device("meta"):  # nothing but shapes
        head = ClassifierHead(channels + projected, _map_size(in_shape, widths), num_classes, widths.head_channels)
        count = _parameters(_features(in_shape, kernel_size, widths)) + _parameters(head)
        if projected:
            count += _parameters(Projection(in_shape[0], projected))
    return count


def matching_channels(in_shape: tuple[int, int, int], num_classes: int, kernel_size: int, widths: Architecture) -> int:
    """Find the width at which a `OneScaleNetwork` has the parameters of the PrimeNet that predicts.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        kernel_size: The scale.
        widths: PrimeNet's size.

    Returns:
        Channels of the map, of all those that bring the number of parameters nearest; of two, the fewer.

    Example:
        >>> matching_channels((1, 28, 28), 10, 5, architecture("compact", (28, 28)))
        29
    """
    target = predicting_parameters(in_shape, num_classes, kernel_size, widths)

    def count(channels: int) -> int:
        with torch.device("meta"):
            replaced = dataclasses.replace(widths, channels=channels)
            network = OneScaleNetwork(in_shape, num_classes, kernel_size, replaced)
        return _parameters(network)

    # each channel more is some parameters more, so that the nearest stands on one side of the target or the other
    choices = range(1, target + 1)
    above = choices[bisect_left(choices, target, key=count)]
    return min((max(above - 1, 1), above), key=lambda channels: abs(count(channels) - target))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _features(in_shape: tuple[int, int, int], kernel_size: int, widths: Architecture) -> ConvFeatures:
    reduced, channels = widths.of_block("reduce_channels", 0), widths.of_block("channels", 0)
    return ConvFeatures(in_shape[0], kernel_size, reduced, channels, widths.stride)


def _map_size(in_shape: tuple[int, int, int], widths: Architecture) -> tuple[int, int]:
    return -(-in_shape[1] // widths.stride), -(-in_shape[2] // widths.stride)
