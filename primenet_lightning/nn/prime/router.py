"""What a block hands on of its capsules' maps: the contract of a router, and routers that hand on one capsule's map.

The paper hands on the map of the capsule with the least loss of the batch (equation 4). `Fixed` and `RandomChoice` are
there for comparison: they show what a choice by the losses is worth. `lasting` has routers that settle on a capsule,
`mixing` those that make their own of all maps; `docs/deep.md` has what each of them costs and gives.
"""

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.prime.routes import least_loss

GATE = "gate"
"""Name of a learned router's own loss."""


class Router(nn.Module, metaclass=CheckedArguments):
    """What a block hands on of its capsules' maps. A subclass overrides what differs; this one hands on one map.

    Every block has a router of its own. In training the block calls `route` with the losses, in evaluation it takes
    the inference route; then it calls `decide`, and `select` with the maps. At inference `infer` computes only what is
    needed. None but `route` and `loss` is given losses, and none is given labels.

    Attributes:
        name: Its name in options.
        chooses: Whether it hands on the map of the capsule that it is told, so that a route may be fixed from outside
            (``inference_routing``). False where it makes its own of all maps.
        needs_losses: Whether it needs local losses; only without can its block be trained end to end.
        learns: Whether it has a loss of its own.
        prunes: Whether it may take capsules away, by committing to one of them.
        committed: The capsule that the block keeps for good, by index; None while it keeps all.
        block_index: The block's place in a stack, from 0.

    Example:
        >>> class Worst(Router):  # one's own: the capsule of most loss
        ...     def route(self, values):
        ...         return max(range(len(values)), key=values.__getitem__)
        >>> Worst().route([0.2, 0.9, 0.5])
        1
    """

    name: ClassVar[str] = ""
    chooses: ClassVar[bool] = True
    needs_losses: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    prunes: ClassVar[bool] = False
    committed: int | None = None
    block_index: int = 0

    @property
    def routes_batches(self) -> bool:
        """Whether a batch as a whole takes the map of the capsule of its route.

        False where all maps go on, or each image takes its own: then a route names the capsule of least loss alone.
        """
        return self.chooses

    @property
    def settled(self) -> int | None:
        """The capsule that label-free inference takes, by index; None leaves that to the routes of the last batches."""
        return None

    def build(self, in_shape: tuple[int, int, int], capsules: int, index: int | None = None) -> None:
        """Prepare for a block; called when the block is built.

        Args:
            in_shape: Channels, height and width of the block's input.
            capsules: How many capsules it has.
            index: The block's place in a stack, from 0; None leaves it as it is.
        """
        if index is not None:
            self.block_index = index

    def out_channels(self, channels: int, capsules: int) -> int:
        """Tell how many channels go on.

        Args:
            channels: Of one capsule's map.
            capsules: How many there are.

        Returns:
            Channels of what `select` and `infer` give.
        """
        return channels

    def route(self, values: Sequence[float]) -> int:
        """Take note of a training batch and say which capsule leads.

        Args:
            values: Local losses of the (global) batch, one per capsule.

        Returns:
            The leader's index; a router that `chooses` hands on its map.
        """
        return least_loss(values)

    def decide(self, x: Tensor, index: int, share: Share = WHOLE) -> int:
        """Say whose map the whole batch takes, where it takes one. Sees no label and takes no note.

        Args:
            x: The block's input, ``(batch, in_channels, height, width)``, detached.
            index: The leader, in training from `route`, else from the inference route.
            share: Of the global batch, all of whose images take the same.

        Returns:
            The index that `select` is to be given, and that the batch is counted for.
        """
        return index

    def select(self, x: Tensor, maps: Sequence[Tensor], index: int) -> Tensor:
        """Make of all maps what goes on. Sees no label.

        Args:
            x: The block's input, ``(batch, in_channels, height', width')``, detached.
            maps: One per capsule, ``(batch, channels, height, width)``.
            index: From `decide`.

        Returns:
            ``(batch, out_channels, height, width)``.
        """
        return maps[index]

    def taken(self, x: Tensor, logits: Sequence[Tensor], index: int) -> Tensor:
        """Tell which capsule's map each image takes in `select`.

        Args:
            x: The block's input, ``(batch, in_channels, height, width)``, detached.
            logits: Local logits, one per capsule, ``(batch, classes)``.
            index: From `decide`.

        Returns:
            Capsule indices, ``(batch,)``, int64; -1 everywhere where all maps go on.

        Example:
            >>> LeastLoss().taken(torch.zeros(2, 3, 8, 8), [torch.zeros(2, 10)] * 3, index=1)
            tensor([1, 1])
        """
        return torch.full((len(x),), index, device=x.device)

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute what goes on, and no more than that needs.

        Args:
            x: The block's input, ``(batch, in_channels, height', width')``, detached.
            features: From ``x`` to a map, one per capsule.
            index: From the inference route.

        Returns:
            ``(batch, out_channels, height, width)``.
        """
        feature_map: Tensor = features[index](x)
        return feature_map

    def loss(self, x: Tensor, losses: Tensor, share: Share = WHOLE) -> Tensor | None:
        """Give the loss that the router itself learns from.

        Args:
            x: The block's input, ``(batch, in_channels, height', width')``, detached.
            losses: Cross-entropies, ``(capsules, batch)``, detached.
            share: Of the global batch.

        Returns:
            A scalar, or None where nothing is learned.
        """
        return None

    def commit(self, index: int) -> None:
        """Keep a capsule for good, as a checkpoint does that has no other; asked of routers that may prune.

        Args:
            index: The capsule's.
        """
        self.committed = index

    def pruned_to(self, index: int) -> None:
        """Go on with one capsule: all others have been pruned.

        Args:
            index: Its index until now; it is 0 from now on.
        """


class LeastLoss(Router):
    """The paper's: the capsule of least loss of the batch, equation 4."""

    name = "least_loss"


class Fixed(Router):
    """Always the same capsule, in training and at inference, whatever the losses; for comparison with a choice.

    All capsules learn, as under any router. Under another ``inference_routing`` than ``"majority"`` that one has its
    way at inference.

    Args:
        capsule: The capsule's index, in routing order.

    Raises:
        ValueError: When a block is built whose capsules do not reach so far.

    Example:
        >>> router = Fixed(capsule=2)
        >>> [router.route(losses) for losses in [(0.1, 0.2, 0.3), (0.9, 0.1, 0.5)]], router.settled
        ([2, 2], 2)
    """

    name = "fixed"
    needs_losses = True  # not to choose: without local losses nothing would train the other capsules

    def __init__(self, capsule: int = 0) -> None:
        super().__init__()
        self.capsule = operator.index(capsule)

    def build(self, in_shape: tuple[int, int, int], capsules: int, index: int | None = None) -> None:
        """Refuse a block that has no such capsule.

        Args:
            in_shape: Not looked at.
            capsules: How many capsules the block has.
            index: As `Router`.

        Raises:
            ValueError: If they do not reach so far.
        """
        super().build(in_shape, capsules, index)
        if not 0 <= self.capsule < capsules:
            raise ValueError(
                f"capsule={self.capsule} names none of the block's {capsules} capsules; count from 0, to "
                f"{capsules - 1} at most"
            )

    def route(self, values: Sequence[float]) -> int:
        """Take the capsule; the losses do not matter."""
        return self.capsule

    @property
    def settled(self) -> int | None:
        """The capsule, from the start."""
        return self.capsule


class RandomChoice(Router):
    """A capsule at random each training batch, whatever the losses; for comparison with a choice.

    Each capsule is as likely as any other. The choice follows from ``seed``, the block's index and the number of the
    batch alone: it is the same on every rank, touches no generator that anything else draws from, and goes on exactly
    where a checkpoint left off. Blocks of a stack choose each for itself; blocks of a foreign model need seeds of their
    own for that.

    A label-free forward does not choose at random: as under `LeastLoss` it takes the route that training took most
    often over the last ``routing_window`` batches, or what another ``inference_routing`` says.

    Args:
        seed: Which of the random sequences; at least 0.

    Attributes:
        batches: Training batches until now.

    Raises:
        ValueError: If ``seed`` is negative.

    Example:
        >>> router, again = RandomChoice(seed=1), RandomChoice(seed=1)
        >>> taken = [router.route((0.1, 0.2, 0.3)) for _ in range(100)]
        >>> sorted(set(taken)), taken == [again.route((0.3, 0.2, 0.1)) for _ in range(100)]
        ([0, 1, 2], True)
    """

    name = "random"
    needs_losses = True  # as in Fixed

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        at_least(0, seed=seed)
        self.seed = operator.index(seed)
        self.batches = 0

    def route(self, values: Sequence[float]) -> int:
        """Draw a capsule; of the losses only their number matters."""
        # a SeedSequence mixes its numbers well and is promised to be the same in every version of numpy
        sequence = np.random.SeedSequence((self.seed, self.block_index, self.batches))
        number = int(sequence.generate_state(1, np.uint64)[0])
        self.batches += 1
        return number % len(values)

    def get_extra_state(self) -> Tensor:
        """Batches until now, int64, ``(1,)``: no buffer, for the reasons that `RouteHistory` gives."""
        return torch.tensor([self.batches], dtype=torch.int64)

    def set_extra_state(self, state: Any) -> None:
        """Take it from a checkpoint."""
        (self.batches,) = state.tolist()
