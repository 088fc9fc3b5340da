"""Routers whose choice lasts: they settle on a capsule, or keep it for good.

In a stack the choice by each batch's losses flips between capsules whose channels mean different things, and all that
follows suffers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routes import least_loss


class Settle(Router):
    r"""The capsule of least *lasting* loss, which another one has to beat clearly.

    Of each capsule's loss a moving average is kept, :math:`m_t = \beta m_{t-1} + (1 - \beta) L_t`, corrected for its
    start as in Adam. The leader stays until another one's average falls below ``1 - hysteresis`` of its own.

    Args:
        decay: :math:`\beta`.
        hysteresis: By which part of the leader's average a challenger must be better.

    Attributes:
        batches: Training batches until now.
        leader: The capsule that leads, by index.
        averages: The moving average of each capsule's loss, not corrected; empty before the first batch.

    Raises:
        ValueError: If either is not in [0, 1).

    Example:
        >>> router = Settle(decay=0.0, hysteresis=0.1)
        >>> [router.route(losses) for losses in [(1.0, 0.9), (0.85, 0.9), (0.8, 0.9)]]
        [1, 1, 0]
    """

    name = "settle"

    def __init__(self, decay: float = 0.98, hysteresis: float = 0.02) -> None:
        super().__init__()
        for option, value in (("decay", decay), ("hysteresis", hysteresis)):
            if not 0 <= value < 1:
                raise ValueError(f"{option}={value} must be at least 0 and below 1")
        self.decay = decay
        self.hysteresis = hysteresis
        self.batches = 0
        self.leader = 0
        self.averages: list[float] = []

    def route(self, values: Sequence[float]) -> int:
        """Follow the losses; see the class."""
        if not self.averages:
            self.averages = [0.0] * len(values)
        self.batches += 1
        for capsule, (average, value) in enumerate(zip(self.averages, values, strict=True)):
            self.averages[capsule] = self.decay * average + (1 - self.decay) * value
        best = least_loss(self.averages)
        # the correction for the start is the same factor on both sides
        if self.batches == 1 or self.averages[best] < (1 - self.hysteresis) * self.averages[self.leader]:
            self.leader = best
        return self.leader

    @property
    def settled(self) -> int | None:
        """The leader: what follows has lately seen no other's maps."""
        return self.leader if self.batches else None

    def pruned_to(self, index: int) -> None:
        """Forget the others."""
        self.averages = self.averages[index : index + 1]
        self.leader = 0

    def get_extra_state(self) -> Tensor:
        """Batches, the leader, whether it is kept for good, and the averages: float64, which holds them all."""
        state = [self.batches, self.leader, self.committed is not None, *self.averages]
        return torch.tensor(state, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Take them from a checkpoint."""
        batches, leader, committed, *self.averages = state.tolist()
        self.batches = int(batches)
        self.leader = int(leader)
        self.committed = self.leader if committed else None


class Commit(Settle):
    """Settles, and after a warm-up keeps the leader for good; the others can then be pruned.

    `PrimeNet` prunes them before the next batch: from memory, optimizer and checkpoint. In a foreign model call
    `PrimeBlock.prune`.

    Args:
        warm_up: Training batches until it commits. In a stack, those after the block before has committed: a block
            that commits changes what all that follow have learned from.
        decay: As `Settle`.
        hysteresis: As `Settle`.

    Attributes:
        span: Batches from the block before to this one, the argument ``warm_up``.

    Raises:
        ValueError: If ``warm_up`` is not positive, or as `Settle`.

    Example:
        >>> router = Commit(warm_up=2, decay=0.0)
        >>> [router.route(losses) for losses in [(1.0, 0.9), (0.5, 0.9), (1.0, 0.1)]], router.committed
        ([1, 0, 0], 0)
    """

    name = "commit"
    prunes = True

    def __init__(self, warm_up: int = 500, decay: float = 0.98, hysteresis: float = 0.02) -> None:
        super().__init__(decay, hysteresis)
        at_least(1, "batch", warm_up=warm_up)
        self.span = warm_up

    @property
    def warm_up(self) -> int:
        """Training batches until it commits, from the first one: block by block a span more."""
        return self.span * (self.block_index + 1)

    def route(self, values: Sequence[float]) -> int:
        """Follow the losses until the end of the warm-up, and nothing after it."""
        if self.committed is None:
            super().route(values)
            if self.batches >= self.warm_up:
                self.commit(self.leader)
        return self.leader

    def commit(self, index: int) -> None:
        """Keep a capsule for good, whatever the losses say.

        Args:
            index: The capsule's.
        """
        super().commit(index)
        self.leader = index
        self.batches = max(self.batches, 1)

    def pruned_to(self, index: int) -> None:
        """Forget the others."""
        super().pruned_to(index)
        self.committed = 0
