"""Classifier heads: the small ones inside capsules, and the final one."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.layout import channels_last, is_plain

LocalClassifier = Literal["flatten", "pooled"]


def glorot_(module: nn.Module) -> nn.Module:
    """Initialise every convolution and dense layer with Glorot's uniform distribution, biases with zero.

    This is the initialisation of the authors' code (Keras' default).

    Args:
        module: Changed in place.

    Returns:
        The same module.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


class FlattenClassifier(nn.Sequential):
    """The paper's local classifier (section 3.2): flatten, dense; the softmax is part of the loss.

    Maps that are laid out channels last are not copied into the order of the weight; where the weight is smaller than
    the batch, it is put into the order of the maps.

    Args:
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.

    Example:
        >>> import torch
        >>> FlattenClassifier(8, (28, 28), 10)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, map_size: tuple[int, int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(in_channels * map_size[0] * map_size[1], num_classes))
        glorot_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a map.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        layers = list(self)
        # a compiler is free to arrange memory, and must not be tied to a batch size
        if len(layers) == 2 and not x.is_contiguous() and not torch.compiler.is_compiling():
            flatten, dense = layers
            if is_plain(flatten, nn.Flatten) and is_plain(dense, nn.Linear) and dense.out_features < len(x):
                weight = dense.weight.reshape(-1, *x.shape[1:]).permute(0, 2, 3, 1).flatten(1)
                return functional.linear(x.permute(0, 2, 3, 1).flatten(1), weight, dense.bias)
        for layer in layers:
            x = layer(x)
        return x


class PooledClassifier(nn.Sequential):
    """A small local classifier: average pooling to a fixed grid, flatten, dense.

    Its size does not grow with the image.

    Args:
        in_channels: Channels of the feature map.
        num_classes: Number of classes.
        grid: Height and width of the grid that is left after pooling.

    Example:
        >>> import torch
        >>> PooledClassifier(8, 10, grid=2)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, num_classes: int, grid: int = 4) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), nn.Linear(in_channels * grid * grid, num_classes))
        glorot_(self)


def local_classifier(kind: LocalClassifier, in_channels: int, map_size: tuple[int, int], num_classes: int) -> nn.Module:
    """Build a local classifier by name.

    Args:
        kind: ``"flatten"`` (the paper's) or ``"pooled"`` (the small one).
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.

    Returns:
        A module from ``(batch, in_channels, *map_size)`` to ``(batch, num_classes)``.

    Raises:
        ValueError: If ``kind`` is neither of the two.
    """
    if kind == "flatten":
        return FlattenClassifier(in_channels, map_size, num_classes)
    if kind == "pooled":
        return PooledClassifier(in_channels, num_classes)
    raise ValueError(f"local_classifier={kind!r} is unknown; use 'flatten' or 'pooled'")


class ClassifierHead(nn.Module):
    """The classifier that ends the network (section 3.4, and the authors' code).

    Batch norm, 2x2 max pool, 3x3 convolution with ReLU, 2x2 max pool; then flatten and dense.

    Args:
        in_channels: Channels of the routed map and the projection together.
        map_size: Height and width of its input, in pixels; at least 4x4, since two poolings halve it twice.
        num_classes: Number of classes.
        channels: Filters of the 3x3 convolution.

    Raises:
        ValueError: If ``map_size`` is smaller than 4x4.

    Example:
        >>> import torch
        >>> head = ClassifierHead(16, (28, 28), 10, channels=32)
        >>> head.features(torch.zeros(2, 16, 28, 28)).shape, head(torch.zeros(2, 16, 28, 28)).shape
        (torch.Size([2, 1568]), torch.Size([2, 10]))
    """

    def __init__(self, in_channels: int, map_size: tuple[int, int], num_classes: int, channels: int = 128) -> None:
        super().__init__()
        if min(map_size) < 4:
            raise ValueError(
                f"map_size={map_size} is too small for the head, whose two 2x2 poolings need at least (4, 4): "
                "use larger images, fewer blocks, or a stride of 1"
            )
        self.features = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.MaxPool2d(2),
            nn.Conv2d(in_channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(channels * (map_size[0] // 4) * (map_size[1] // 4), num_classes)
        glorot_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a concatenation of routed map and projection.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        logits: Tensor = self.classifier(self.features(channels_last(x)))
        return logits
