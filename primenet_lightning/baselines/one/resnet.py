"""The residual network that ONE branches: for small images, with projections where the shape changes."""

from collections import OrderedDict
from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from primenet_lightning.arguments import whole_number
from primenet_lightning.nn.resnets import he_

BlockName = Literal["basic", "bottleneck"]
"""Kinds of residual blocks: of two 3x3 convolutions, or of 1x1, 3x3 and 1x1, four times as wide."""

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}

BOTTLENECKS_FROM = 44
"""Depth from which the authors' code has bottlenecks."""

Parts = OrderedDict[str, nn.Module]


def block_of(depth: int, block: BlockName | None = None) -> BlockName:
    """Tell which blocks a depth has.

    Args:
        depth: Layers, by the count for basic blocks.
        block: None is as in the authors' code: bottlenecks from a depth of 44 on, whose "ResNet-110" has so 164 layers.

    Returns:
        Their name.

    Raises:
        ValueError: If there is no network of such a depth, or the name is unknown.

    Example:
        >>> block_of(32), block_of(110)
        ('basic', 'bottleneck')
    """
    if whole_number(8, depth=depth) % 6 != 2:
        raise ValueError(f"depth={depth} must be 6 n + 2 with n blocks a stage: 20, 32, 110, ...")
    if block is None:
        return "bottleneck" if depth >= BOTTLENECKS_FROM else "basic"
    if block not in BLOCKS:
        raise ValueError(f"block={block!r} is unknown; use 'basic' or 'bottleneck', or None for what the depth has")
    return block


def _stage(kind: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, blocks: int, stride: int) -> nn.Module:
    """Residual blocks, the first of which may subsample."""
    channels = width * kind.expansion
    projection = None
    if stride != 1 or inputs != channels:
        projection = nn.Sequential(conv1x1(inputs, channels, stride), nn.BatchNorm2d(channels))
    layers: list[nn.Module] = [kind(inputs, width, stride, projection)]
    for _ in range(blocks - 1):
        layers.append(kind(channels, width))
    return nn.Sequential(*layers)


def lower_parts(in_channels: int, depth: int, block: BlockName) -> Parts:
    """Build what branches share: a 3x3 convolution, and the first two stages, of 16 and 32 channels.

    Args:
        in_channels: Channels of the images.
        depth: Layers.
        block: Kind of the blocks.

    Returns:
        Parts by name, in order.
    """
    kind, blocks = BLOCKS[block], depth // 6
    return Parts(
        conv1=nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(inplace=True),
        layer1=_stage(kind, 16, 16, blocks, stride=1),
        layer2=_stage(kind, 16 * kind.expansion, 32, blocks, stride=2),
    )


def upper_parts(num_classes: int, depth: int, block: BlockName) -> Parts:
    """Build what each branch has of its own: the last stage, of 64 channels, pooling and dense layer.

    Args:
        num_classes: Number of classes.
        depth: Layers.
        block: Kind of the blocks.

    Returns:
        Parts by name, in order.
    """
    kind, blocks = BLOCKS[block], depth // 6
    return Parts(
        layer3=_stage(kind, 32 * kind.expansion, 64, blocks, stride=2),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(64 * kind.expansion, num_classes),
    )


def residual_network(
    depth: int, in_channels: int = 3, num_classes: int = 10, block: BlockName | None = None
) -> nn.Sequential:
    """Build the plain residual network, which is one branch alone.

    Args:
        depth: Layers, 6 n + 2 with n blocks a stage.
        in_channels: Channels of the images, whose size may be any.
        num_classes: Number of classes.
        block: Kind of the blocks, see `block_of`.

    Returns:
        From images to logits; its parts are named as torchvision's.

    Example:
        >>> network = residual_network(32)
        >>> list(dict(network.named_children())), sum(parameter.numel() for parameter in network.parameters())
        (['conv1', 'bn1', 'relu', 'layer1', 'layer2', 'layer3', 'avgpool', 'flatten', 'fc'], 466906)
    """
    kind = block_of(depth, block)
    parts = lower_parts(in_channels, depth, kind)
    parts.update(upper_parts(num_classes, depth, kind))
    network = nn.Sequential(parts)
    he_(network)
    return network
