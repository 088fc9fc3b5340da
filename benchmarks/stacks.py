"""Stacks and cut networks that learn locally, and their end-to-end twins: in one engine, with the same fast paths."""

from dataclasses import replace
from typing import NamedTuple

import checkout  # noqa: F401
import torch
from torch import nn

from primenet_lightning import (
    Architecture,
    CompositeOptimizer,
    CutNetwork,
    EndToEndNetwork,
    PaperAdam,
    PrimeNetwork,
    Rhythm,
    StagedNetwork,
    StageRunner,
)
from primenet_lightning.nn.cutting.network import UncutNetwork
from primenet_lightning.nn.resnets import SmallImageResNet

WIDTHS = Architecture(
    reduce_channels=16, channels=32, projection_channels=16, head_channels=32, local_classifier="pooled", stride=1
)
KERNELS = {1: (3,), 2: (3, 5), 3: (3, 5, 7)}
"""Kernel sizes by the number of capsules."""

WITHOUT_LOSSES = ("mean", "concatenate")
"""Routers that an end-to-end network can have."""


class Pair(NamedTuple):
    """One network twice, of the same first weights.

    Attributes:
        local: Learns locally, stage by stage.
        twin: Learns by one backward pass from its last loss.
    """

    local: StagedNetwork
    twin: StagedNetwork


def stack(
    depth: int,
    capsules: int,
    router: str = "least_loss",
    in_shape: tuple[int, int, int] = (3, 32, 32),
    widths: Architecture = WIDTHS,
    pool_every: int = 2,
) -> Pair:
    """Build a stack of blocks. Where its router chooses by losses, the twin hands on the mean of all maps.

    Args:
        depth: Number of blocks.
        capsules: In each block, of 1 to 3.
        router: What a block hands on.
        in_shape: Channels, height and width of the images.
        widths: Of all blocks.
        pool_every: A pool ends every so many blocks.

    Returns:
        Both networks.
    """
    of_twin = router if (capsules == 1 and router == "least_loss") or router in WITHOUT_LOSSES else "mean"
    networks: list[PrimeNetwork] = []
    for kind, name in ((PrimeNetwork, router), (EndToEndNetwork, of_twin)):
        torch.manual_seed(0)
        channels, *size = in_shape
        architecture = replace(widths, router=name)
        kernels = KERNELS[capsules]
        networks.append(
            kind.build(
                channels,
                (size[0], size[1]),
                10,
                architecture,
                kernel_sizes=kernels,
                depth=depth,
                pool_every=pool_every,
            )
        )
    return Pair(*networks)


def cut_resnet(parts: int, depth: int = 20, width: int = 16, in_shape: tuple[int, int, int] = (3, 32, 32)) -> Pair:
    """Build a residual network for small images, cut into parts that learn from pooled classifiers, and uncut.

    Args:
        parts: How many.
        depth: Layers.
        width: Channels of the first group.
        in_shape: Channels, height and width of the images.

    Returns:
        Both networks.
    """
    backbones: list[nn.Module] = []
    for _ in range(2):
        torch.manual_seed(0)
        backbones.append(SmallImageResNet(depth, in_shape[0], 10, width=width))
    return Pair(
        CutNetwork(backbones[0], in_shape, parts=parts, recipe="greedy", local_classifier="pooled"),
        UncutNetwork(backbones[1], in_shape),
    )


def commit(network: StagedNetwork, choice: int = 0) -> None:
    """Let every block of a network with the router ``"commit"`` keep one capsule, and drop the others for good.

    Args:
        network: Pruned in place.
        choice: The index of the capsule that stays.
    """
    assert isinstance(network, PrimeNetwork)
    for block in network.prime_blocks:
        block.router.commit(choice)
    network.prune()


def runner_of(network: StagedNetwork, rhythm: Rhythm | None = None) -> StageRunner:
    """Make the engine of a network, with the paper's Adam for every learner.

    Args:
        network: Local, or a twin.
        rhythm: When it goes backward.

    Returns:
        What runs a batch through it, and applies what was learned by ``step``.
    """
    optimizer = CompositeOptimizer({name: PaperAdam(part) for name, part in network.learners().items()})
    return StageRunner(network.train(), optimizer, rhythm)
