"""What a network of capsules is made of, and the two sizes of the paper's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.classifiers import LocalClassifier
from primenet_lightning.nn.losses import LocalLossKind
from primenet_lightning.nn.prime.routers import RouterName

Size = Literal["paper", "compact"]

Widths = int | tuple[int, ...]
"""Channels of all blocks, or one number per block."""

WidthField = Literal["reduce_channels", "channels", "projection_channels"]
"""The fields of `Architecture` that may differ from block to block."""

LEAST_WIDTHS: Mapping[WidthField, int] = {"reduce_channels": 0, "channels": 1, "projection_channels": 0}
"""The smallest of each; 0 leaves that layer out."""


@dataclass(frozen=True)
class Architecture(metaclass=CheckedArguments):
    """What a size decides; each field can be set by itself on `PrimeNet` and `PrimeNetwork.build`.

    Attributes:
        reduce_channels: Channels after each capsule's 1x1 convolution.
        channels: Channels of each capsule's feature map.
        projection_channels: Channels of the projection; 0 leaves it out.
        head_channels: Filters of the head's 3x3 convolution.
        local_classifier: The classifier inside the capsules.
        stride: Stride of the first block's capsules and projection.
        router: What each block hands on, see `primenet_lightning.nn.prime.routers`.
        router_options: Arguments of the router.
        local_loss: What the capsules learn from, see `primenet_lightning.nn.losses.local_loss`.
        local_loss_options: Arguments of that loss.
        local_classifier_options: Further arguments of the local classifier, see `local_classifier`.

    Example:
        >>> from dataclasses import replace
        >>> wide = replace(architecture("paper", (28, 28)), channels=(64, 128), router="concatenate")
        >>> wide.check_depth(2)
        >>> wide.of_block("channels", 1), wide.of_block("projection_channels", 1)
        (128, 64)
    """

    reduce_channels: Widths
    channels: Widths
    projection_channels: Widths
    head_channels: int
    local_classifier: LocalClassifier
    stride: int
    router: RouterName | str = "least_loss"
    router_options: Mapping[str, Any] | None = None
    local_loss: LocalLossKind = "cross_entropy"
    local_loss_options: Mapping[str, Any] | None = None
    local_classifier_options: Mapping[str, Any] | None = None

    def check_depth(self, depth: int) -> None:
        """Check that widths given block by block are as many as the blocks.

        Args:
            depth: Number of blocks.

        Raises:
            ValueError: If there are more, or fewer, or if one is too small.
        """
        for field, least in LEAST_WIDTHS.items():
            given: Widths = getattr(self, field)
            widths = (given,) * depth if isinstance(given, int) else given
            if len(widths) != depth:
                raise ValueError(
                    f"{field}={tuple(widths)} has {len(widths)} numbers for depth={depth}; give one per block, or one "
                    "for all"
                )
            for width in widths:
                if width < least:
                    raise ValueError(f"{field}={given} has {width}, which is too few channels")

    def of_block(self, field: WidthField, index: int) -> int:
        """Tell a width of one block.

        Args:
            field: Which width.
            index: The block's index.

        Returns:
            The number for that block.

        Example:
            >>> Architecture(8, (16, 32), 8, 96, "pooled", stride=1).of_block("channels", 1)
            32
        """
        widths: Widths = getattr(self, field)
        if isinstance(widths, int):
            return widths
        return widths[index]


def architecture(size: Size, image_size: tuple[int, int]) -> Architecture:
    """Look a size up.

    Args:
        size: ``"paper"``: the widths of the authors' code. ``"compact"``: the paper's claimed cost made true, at most
            0.41 M parameters and 2.7 M multiply-adds at inference for images of 28x28x1 and 32x32x3.
        image_size: Height and width, in pixels; the compact network has maps at half resolution from 28 pixels on.

    Returns:
        The fields of the size.

    Raises:
        ValueError: If the size is unknown.

    Example:
        >>> [architecture(size, (28, 28)).channels for size in ("paper", "compact")]
        [64, 16]
    """
    if size == "paper":
        return Architecture(32, 64, 64, 128, "flatten", stride=1)
    if size == "compact":
        side = max(image_size)
        if side < 28:  # small images leave the budget to wider maps
            return Architecture(8, 32, 16, 96, "flatten", stride=1)
        # the head takes what the budget of 2.7 M multiply-adds leaves beside the 7x7 capsule
        head_channels = 56
        if side < 32:
            head_channels = 96
        return Architecture(8, 16, 16, head_channels, "flatten", stride=2)
    raise ValueError(f"size={size!r} is unknown; use 'paper' or 'compact'")


def customized(size: Size, image_size: tuple[int, int], **fields: Any) -> Architecture:
    """Look a size up, and replace some of its fields.

    Args:
        size: ``"paper"`` or ``"compact"``.
        image_size: Height and width, in pixels.
        **fields: Of `Architecture`; None leaves the size's own, and lists become tuples.

    Returns:
        The fields.

    Example:
        >>> customized("compact", (28, 28), channels=[8, 16], stride=None).channels
        (8, 16)
    """
    given: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, list):
            value = tuple(value)
        if value is not None:
            given[name] = value
    return replace(architecture(size, image_size), **given)
