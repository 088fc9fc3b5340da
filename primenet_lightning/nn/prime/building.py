"""From an architecture to blocks and a head: the one way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.classifiers import ClassifierHead, FollowingLayer, local_classifier
from primenet_lightning.nn.layers import trial_run
from primenet_lightning.nn.prime.architecture import Architecture
from primenet_lightning.nn.prime.block import PrimeBlock
from primenet_lightning.nn.prime.capsules import Capsule, conv_capsules
from primenet_lightning.nn.prime.projection import Projection
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routers import build_router
from primenet_lightning.nn.prime.shapes import MapShape

PoolEvery = int | Sequence[int]
"""A 2x2 max pool ends every so many blocks, or the blocks of these indices."""

SELF_SUFFICIENT = ("flatten", "pooled", "mlp")
"""Local classifiers that a projection can have too; the others are built from the layers around a capsule."""


@dataclass(frozen=True)
class Plan:
    """What a `PrimeNetwork` is built from.

    Attributes:
        architecture: Widths, local classifier, local loss and router.
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        kernel_sizes: One capsule per scale, odd.
        depth: Number of blocks.
        pool_every: A 2x2 max pool ends every so many blocks, or those of these indices; never the last.

    Example:
        >>> from primenet_lightning.nn.prime.architecture import architecture
        >>> plan = Plan(architecture("compact", (28, 28)), (1, 28, 28), num_classes=10, depth=2)
        >>> [block.out_shape for block in plan.blocks()]
        [(32, 7, 7), (32, 7, 7)]
    """

    architecture: Architecture
    in_shape: MapShape
    num_classes: int
    kernel_sizes: Sequence[int] = (3, 5, 7)
    depth: int = 1
    pool_every: PoolEvery = 1

    def capsules(self, index: int, in_shape: MapShape) -> dict[str, Capsule]:
        """Build the capsules of one block.

        Args:
            index: The block's index, 0 first.
            in_shape: Channels, height and width of its input.

        Returns:
            Capsules by name.
        """
        widths = self.architecture
        widths.check_depth(self.depth)
        following = [
            FollowingLayer(widths.of_block("channels", later), pool_follows(self.pool_every, later - 1))
            for later in range(index + 1, self.depth)
        ]
        following.append(FollowingLayer(widths.head_channels, pooled=True))  # the convolution in the head
        return conv_capsules(
            in_shape[0],
            in_shape[1:],
            self.num_classes,
            kernel_sizes=self.kernel_sizes,
            reduce_channels=widths.of_block("reduce_channels", index),
            channels=widths.of_block("channels", index),
            stride=widths.stride if index == 0 else 1,
            classifier=widths.local_classifier,
            loss=widths.local_loss,
            loss_options=widths.local_loss_options,
            following=following,
            classifier_options=widths.local_classifier_options,
        )

    def projection(self, index: int, in_shape: MapShape, map_size: tuple[int, int]) -> nn.Module | None:
        """Build the projection of one block.

        Args:
            index: The block's index, 0 first.
            in_shape: Channels, height and width of its input.
            map_size: Height and width of its capsules' maps.

        Returns:
            The projection, or None for none.
        """
        channels = self.architecture.of_block("projection_channels", index)
        return Projection.to_size(in_shape, channels, map_size) if channels else None

    def router(self, index: int) -> Router:
        """Build what decides what goes on of one block's maps.

        Args:
            index: The block's index, 0 first.

        Returns:
            A router of this block's own.
        """
        return build_router(self.architecture.router, index, self.architecture.router_options)

    def head(self, in_shape: MapShape) -> nn.Module:
        """Build the classifier head.

        Args:
            in_shape: Channels, height and width of the last block's output.

        Returns:
            A module from that to logits.
        """
        return ClassifierHead(in_shape[0], in_shape[1:], self.num_classes, self.architecture.head_channels)

    def blocks(
        self,
        capsules: Callable[[int, MapShape], Mapping[str, Capsule]] | None = None,
        projection: Callable[[int, MapShape, tuple[int, int]], nn.Module | None] | None = None,
        router: Callable[[int], Router] | None = None,
    ) -> list[PrimeBlock]:
        """Build blocks in a row, each for the output of the one before, pooled where it is.

        Args:
            capsules: Builds a block's capsules; None builds the plan's.
            projection: Builds a block's projection; None builds the plan's.
            router: Builds a block's router; None builds the plan's.

        Returns:
            The blocks; the last one's projection is left to the head's loss.

        Raises:
            ValueError: If ``depth`` is not positive or the images are too small for it.
        """
        at_least(1, "block", depth=self.depth)
        blocks: list[PrimeBlock] = []
        shape = self.in_shape
        for index in range(self.depth):
            self._refuse_empty(shape, index)
            made = (capsules or self.capsules)(index, shape)
            bare = PrimeBlock(shape, made, None)  # tells the maps' size, and whether they agree
            map_size = bare.map_shape[1:]
            projected = (projection or self.projection)(index, shape, map_size)
            last = index + 1 == self.depth
            classifier = None
            if projected is not None and not last:
                classifier = self._projection_classifier(projected, shape, map_size)
            block = PrimeBlock(shape, made, projected, classifier, router=(router or self.router)(index))
            block.pooled = not last and pool_follows(self.pool_every, index)
            blocks.append(block)
            shape = block.out_shape
        return blocks

    def _refuse_empty(self, shape: MapShape, index: int) -> None:
        if min(shape[1:]) < 1:
            raise ValueError(
                f"image_size={self.in_shape[1:]} is too small for depth={self.depth}: poolings leave nothing for "
                f"block{index}; use larger images, fewer blocks, or a pool_every above {self.pool_every}"
            )

    def _projection_classifier(self, projection: nn.Module, in_shape: MapShape, map_size: tuple[int, int]) -> nn.Module:
        """What a projection below the last block learns with."""
        with trial_run(projection):
            channels = projection(torch.zeros(2, *in_shape)).shape[1]
        kind, options = self.architecture.local_classifier, self.architecture.local_classifier_options
        if kind not in SELF_SUFFICIENT:
            kind, options = "pooled", None
        return local_classifier(kind, channels, map_size, self.num_classes, options=options)


def pool_follows(pool_every: PoolEvery, index: int) -> bool:
    """Tell whether a 2x2 max pool ends a block, if it is not the last.

    Args:
        pool_every: Every so many blocks, or the indices of the blocks.
        index: The block's index.

    Returns:
        Whether it does.

    Example:
        >>> [index for index in range(6) if pool_follows(2, index)], pool_follows((0, 3), 3)
        ([1, 3, 5], True)
    """
    if isinstance(pool_every, int):
        return (index + 1) % max(pool_every, 1) == 0
    return index in pool_every
