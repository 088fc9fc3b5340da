"""CondenseNet: a dense network of learned group convolutions, in pure torch."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import whole_number
from primenet_lightning.baselines.condensenet.layers import (
    Gather,
    LearnedGroupConvolution,
    Pointwise,
    converted,
    fixed,
    stage_at,
)
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.layout import channels_last
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.resnets import he_

Size = Literal["50", "74", "86", "98", "110", "122", "182", "light94"]
"""Sizes by name: CondenseNet-50 and so on, and CondenseNet-light-94."""

BOTTLENECK = 4
"""Filters of a layer's 1x1 convolution, in units of its growth."""


class Architecture(NamedTuple):
    """A size of CondenseNet.

    Attributes:
        layers: Layers of each block.
        growth: Channels that each layer of a block adds.
        light: Whether learned group convolutions halve the channels between blocks (CondenseNet-light).
    """

    layers: tuple[int, ...]
    growth: tuple[int, ...]
    light: bool = False


SIZES: dict[str, Architecture] = {
    "50": Architecture((8, 8, 8), (8, 16, 32)),
    "74": Architecture((12, 12, 12), (8, 16, 32)),
    "86": Architecture((14, 14, 14), (8, 16, 32)),
    "98": Architecture((16, 16, 16), (8, 16, 32)),
    "110": Architecture((18, 18, 18), (8, 16, 32)),
    "122": Architecture((20, 20, 20), (8, 16, 32)),
    "182": Architecture((30, 30, 30), (12, 24, 48)),
    "light94": Architecture((15, 15, 15), (16, 16, 16), light=True),
}
"""The sizes for 32x32 images, by name."""


def architecture(size: Size, layers: Sequence[int] | None = None, growth: Sequence[int] | None = None) -> Architecture:
    """Look a size up.

    Args:
        size: Its name.
        layers: Layers of each block, in place of the size's.
        growth: Channels that each layer of a block adds, in place of the size's.

    Returns:
        The architecture.

    Raises:
        ValueError: If the size is unknown, a number is below 1, or there are not as many layers as growths.

    Example:
        >>> architecture("86").layers, architecture("86", growth=[4, 8, 16]).growth
        ((14, 14, 14), (4, 8, 16))
    """
    if f"{size}" not in SIZES:
        raise ValueError(f"size={size!r} is unknown; use one of {', '.join(map(repr, SIZES))}")
    shape = SIZES[f"{size}"]
    if layers is not None:
        shape = shape._replace(layers=_one_a_block(layers=layers))
    if growth is not None:
        shape = shape._replace(growth=_one_a_block(growth=growth))
    if len(shape.layers) != len(shape.growth) or not shape.layers:
        raise ValueError(
            f"layers={list(shape.layers)} and growth={list(shape.growth)} must have one number a block, both"
        )
    return shape


def _one_a_block(**argument: Any) -> tuple[int, ...]:
    """Whole numbers of at least 1, of any library, by the name of their argument."""
    ((name, numbers),) = argument.items()
    if not isinstance(numbers, Iterable):
        raise ValueError(f"{name}={numbers} must be a list of one number a block, such as [14, 14, 14]")
    return tuple(whole_number(1, **{name: number}) for number in numbers)


class DenseLayer(nn.Module):
    """A 1x1 convolution and a 3x3 group convolution, whose maps are added to those before.

    Args:
        bottleneck: The 1x1 convolution, with what stands before it.
        channels: Its filters.
        growth: New channels.
        groups: Groups of the 3x3 convolution.

    Raises:
        ValueError: If the new channels cannot be shared out evenly.
    """

    def __init__(self, bottleneck: nn.Module, channels: int, growth: int, groups: int) -> None:
        super().__init__()
        if growth % groups:
            raise ValueError(f"growth={growth} must be a multiple of groups={groups}, which share out the new channels")
        self.bottleneck = bottleneck
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.convolution = nn.Conv2d(channels, growth, 3, padding=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add this layer's maps to all those before.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            ``(batch, channels + growth, height, width)``.
        """
        new = self.convolution(self.relu(self.norm(self.bottleneck(x))))
        return torch.cat([x, new], dim=1)


class CondenseNetwork(nn.Module, metaclass=CheckedArguments):
    """A dense network whose 1x1 convolutions condense while it learns.

    A 3x3 convolution; blocks of dense layers, with 2x2 average pooling in between; batch norm, ReLU, global average
    pooling, dense layer. No convolution has a bias.

    Args:
        in_channels: Channels of the images, whose size may be any that can be halved between blocks.
        num_classes: Number of classes.
        shape: Layers and growth of the blocks, from `architecture`.
        groups: Groups of the convolutions.
        condensation: One part in so many of the inputs of a 1x1 convolution is left; 1 condenses nothing.
        dropout: Share of the values before a 1x1 convolution that are dropped in training.
        learned: False has groups that are fixed from the start, and ``condensation`` nothing to do.
        lasso: Weight of the group lasso in `loss`; nothing is added once the last stage is reached.
        halve_classifier: At the conversion, only the half of the classifier's inputs with the largest sum of weights is
            kept, without further training, as the authors' code does; the answers then change.

    Raises:
        ValueError: If channels cannot be shared out evenly, or a number is out of its range.

    Example:
        >>> network = CondenseNetwork(3, 10, architecture("86"))
        >>> sum(parameter.numel() for parameter in network.parameters())
        1451594
        >>> network.condense(progress=0.5)
        True
        >>> sum(parameter.numel() for parameter in network.converted().parameters())
        520202
    """

    _checked_by_itself: ClassVar[tuple[str, ...]] = ("groups", "condensation")

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        shape: Architecture,
        groups: int = 4,
        condensation: int = 4,
        dropout: float = 0.0,
        learned: bool = True,
        lasso: float = 0.0,
        halve_classifier: bool = False,
    ) -> None:
        super().__init__()
        groups = whole_number(1, groups=groups)
        condensation = whole_number(1, condensation=condensation)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is out of range; give a share of at least 0 and less than 1")
        if not lasso >= 0:
            raise ValueError(f"lasso={lasso} must be at least 0; the authors' weight is 1e-5, for ImageNet alone")
        self.lasso = lasso
        self.halve_classifier = halve_classifier

        def pointwise(channels: int, filters: int, share: float) -> nn.Sequential:
            if learned:
                return Pointwise(channels, filters, groups, condensation, share)
            return fixed(channels, filters, groups, share)

        channels = 2 * shape.growth[0]
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for number, (layers, growth) in enumerate(zip(shape.layers, shape.growth, strict=True)):
            block = nn.Sequential()
            for _ in range(layers):
                filters = BOTTLENECK * growth
                block.append(DenseLayer(pointwise(channels, filters, dropout), filters, growth, groups))
                channels += growth
            if number < len(shape.layers) - 1:
                if shape.light:
                    halved = -(-channels // (2 * groups)) * groups
                    block.append(pointwise(channels, halved, dropout))
                    channels = halved
                block.append(nn.AvgPool2d(2))
            self.blocks.append(block)
        self.classifier = nn.Sequential(
            OrderedDict(
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(channels, num_classes),
            )
        )
        he_(self)
        nn.init.zeros_(self.classifier.get_submodule("linear").bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        logits: Tensor = self.classifier(self.blocks(self.stem(channels_last(x))))
        return logits

    # -- condensation --------------------------------------------------------------------------------------------------

    @property
    def learned_layers(self) -> list[LearnedGroupConvolution]:
        """The convolutions that condense, first to last; none in a network that was converted."""
        return [layer for layer in self.modules() if isinstance(layer, LearnedGroupConvolution)]

    @property
    def stage(self) -> int:
        """How often channels have been given up; 0 where nothing condenses."""
        layers = self.learned_layers
        return layers[0].stage if layers else 0

    @property
    def is_condensed(self) -> bool:
        """Whether the last stage has been reached, or nothing condenses."""
        layers = self.learned_layers
        return not layers or layers[0].is_condensed

    def condense(self, progress: float) -> bool:
        """Give up what is due.

        Args:
            progress: Share of the training that is done, from 0 to 1.

        Returns:
            Whether channels were given up.
        """
        layers = self.learned_layers
        if not layers or layers[0].stage >= stage_at(progress, layers[0].condensation):
            return False
        for layer in layers:
            layer.condense(stage_at(progress, layer.condensation))
        return True

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, and until the last stage is reached the group lasso.

        Args:
            logits: ``(batch, classes)``.
            target: Class indices, ``(batch,)``.

        Returns:
            A scalar.
        """
        loss = cross_entropy(logits, target)
        if self.lasso and not self.is_condensed:
            loss = loss + self.lasso * torch.stack([layer.lasso() for layer in self.learned_layers]).sum()
        return loss

    # -- conversion ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def converted(self) -> "CondenseNetwork":
        """Make a network of ordinary group convolutions that answers the same to rounding.

        Returns:
            A copy, in the same mode; with ``halve_classifier`` it answers by half of the features.

        Raises:
            ValueError: If the condensation has stages to go.
        """
        network = copy.deepcopy(self)
        if not self.learned_layers:
            return network
        for block in network.blocks:
            for name, layer in list(block.named_children()):
                if isinstance(layer, Pointwise):
                    setattr(block, name, converted(layer))
                elif isinstance(layer, DenseLayer) and isinstance(layer.bottleneck, Pointwise):
                    layer.bottleneck = converted(layer.bottleneck)
        if self.halve_classifier:
            network.classifier = _halved(network.classifier)
        return network

    def deployed(self) -> "CondenseNetwork":
        """Make the network of its size that predicts when training is over, whose cost is counted.

        Returns:
            A copy that is condensed to the last stage and converted; before that stage its answers are others.
        """
        network = copy.deepcopy(self)
        network.condense(progress=1.0)
        return network.converted()


def _halved(classifier: nn.Sequential) -> nn.Sequential:
    """Keep the half of the features with the largest sums of absolute weights."""
    parts = OrderedDict(classifier.named_children())
    linear = parts.pop("linear")
    assert isinstance(linear, nn.Linear)
    sums = at_least_float32(linear.weight).abs().sum(0)
    index = sums.argsort(descending=True, stable=True)[: linear.in_features // 2].sort().values
    half = nn.Linear(len(index), linear.out_features).to(linear.weight)
    half.weight.copy_(linear.weight[:, index])
    half.bias.copy_(linear.bias)
    halved = nn.Sequential(OrderedDict(**parts, index=Gather(index), linear=half))
    return halved.train(classifier.training)


def smallest_image(shape: Architecture) -> int:
    """Tell how high and wide images have to be, since pooling halves them between blocks.

    Args:
        shape: The architecture.

    Returns:
        Pixels.

    Example:
        >>> smallest_image(architecture("86"))
        4
    """
    return int(2 ** (len(shape.layers) - 1))
