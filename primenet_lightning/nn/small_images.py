"""Networks for small images: those that torchvision has for large ones, built of its modules; and `WhitenedNetwork`."""

import math
from typing import Any

from torch import nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.whitened import WhitenedNetwork


def densenet_bc(
    in_shape: tuple[int, int, int], num_classes: int = 10, depth: int = 100, growth: int = 12, dropout: float = 0.0
) -> nn.Module:
    """Build Huang et al.'s DenseNet-BC for 32x32 images (section 4 of their paper).

    G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger: Densely Connected Convolutional Networks, CVPR 2017. A 3x3
    convolution, and three dense blocks whose transitions halve the channels.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        depth: Layers with weights: 6 n + 4, with n layers of two convolutions a block.
        growth: Channels that a layer adds.
        dropout: Behind each layer.

    Returns:
        A `torchvision.models.DenseNet`.

    Raises:
        ValueError: If there is no network of such a depth.

    Example:
        >>> network = densenet_bc((3, 32, 32))
        >>> sum(parameter.numel() for parameter in network.parameters())
        769162
    """
    from torchvision.models import DenseNet  # half a second, for those who build one

    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth={depth} must be 6 n + 4 with n layers a block: 40, 100, 190, ...")
    at_least(1, growth=growth)
    layers = (depth - 4) // 6
    model: nn.Module = DenseNet(growth, (layers,) * 3, 2 * growth, drop_rate=dropout, num_classes=num_classes)
    features = model.get_submodule("features")
    features.conv0 = nn.Conv2d(in_shape[0], 2 * growth, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(features.conv0.weight)
    for name in ("norm0", "relu0", "pool0"):  # they subsample large images
        delattr(features, name)
    return model


def vit_tiny(
    in_shape: tuple[int, int, int], num_classes: int = 10, patch: int = 4, layers: int = 12, dropout: float = 0.0
) -> nn.Module:
    """Build the tiny vision transformer of Touvron et al., with small patches for small images.

    H. Touvron, M. Cord, M. Douze, F. Massa, A. Sablayrolles, H. Jégou: Training data-efficient image transformers,
    ICML 2021: 192 channels, 3 heads. They have patches of 16 pixels.

    Args:
        in_shape: Channels, height and width of the images, which are square.
        num_classes: Number of classes.
        patch: Height and width of a patch, by which the images' divide.
        layers: Transformer blocks.
        dropout: Of the blocks.

    Returns:
        A `torchvision.models.VisionTransformer`.

    Raises:
        ValueError: If the images are not square, or do not divide into such patches.

    Example:
        >>> vit_tiny((3, 32, 32)).seq_length  # 64 patches and a class token
        65
    """
    from torchvision.models import VisionTransformer

    channels, height, width = in_shape
    at_least(1, patch=patch, layers=layers)
    if height != width or height % patch:
        raise ValueError(f"images of {height} by {width} pixels do not divide into a square of {patch}x{patch} patches")
    model: nn.Module = VisionTransformer(height, patch, layers, 3, 192, 768, dropout, num_classes=num_classes)
    # as torchvision's, which is for three channels
    model.conv_proj = _patches(channels, 192, patch, std=math.sqrt(1 / (channels * patch**2)))
    return model


def convnext(
    in_shape: tuple[int, int, int], num_classes: int = 10, patch: int = 2, stochastic_depth_prob: float = 0.0
) -> nn.Module:
    """Build a small ConvNeXt for small images: 40, 80, 160 and 320 channels, 2, 2, 6 and 2 blocks.

    Z. Liu, H. Mao, C.-Y. Wu, C. Feichtenhofer, T. Darrell, S. Xie: A ConvNet for the 2020s, CVPR 2022. The smallest of
    theirs has 96 channels at first, and patches of 4 pixels; these widths and depths are those of timm's
    ``convnext_atto``.

    Args:
        in_shape: Channels, height and width of the images, of at least ``8 * patch`` pixels.
        num_classes: Number of classes.
        patch: Height and width of the patches that the first convolution sees.
        stochastic_depth_prob: How often the last block is left out in training; blocks before it less.

    Returns:
        A `torchvision.models.ConvNeXt`.

    Raises:
        ValueError: If the images are too small.

    Example:
        >>> import torch
        >>> convnext((3, 32, 32)).features(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 320, 2, 2])
    """
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig

    channels, *size = in_shape
    at_least(1, patch=patch)
    if min(size) < 8 * patch:
        raise ValueError(f"images of {size[0]} by {size[1]} pixels are too small for patch={patch}: it halves 3 times")
    stages = [CNBlockConfig(40, 80, 2), CNBlockConfig(80, 160, 2), CNBlockConfig(160, 320, 6)]
    stages.append(CNBlockConfig(320, None, 2))
    model: nn.Module = ConvNeXt(stages, stochastic_depth_prob, num_classes=num_classes)
    stem: Any = model.get_submodule("features.0")
    stem[0] = _patches(channels, 40, patch, std=0.02)
    return model


def whitened(in_shape: tuple[int, int, int], num_classes: int = 10, **options: Any) -> nn.Module:
    """Build a `WhitenedNetwork`, which learns fast.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        **options: Of `WhitenedNetwork`: ``widths``, ....

    Returns:
        The network.

    Raises:
        ValueError: If there is no such network.

    Example:
        >>> network = whitened((1, 28, 28), widths=(32, 96, 128))
        >>> sum(parameter.numel() for parameter in network.parameters())
        381992
    """
    return WhitenedNetwork(in_shape[0], in_shape[1:], num_classes, **options)


def _patches(in_channels: int, channels: int, patch: int, std: float) -> nn.Conv2d:
    """A convolution that sees each pixel once, its weights from a truncated normal distribution."""
    layer = nn.Conv2d(in_channels, channels, patch, stride=patch)
    nn.init.trunc_normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
