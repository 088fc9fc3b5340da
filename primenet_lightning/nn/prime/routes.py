"""Routing: which capsule's feature map goes on.

In training the batch's labels decide (equation 4). At inference there are no labels, and the choice is made without.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.stages import Route

EACH_SUREST = -1
"""In place of a capsule's index: each sample takes the capsule that is surest of it."""

BY_LABELS = -2
"""In place of a capsule's index: the capsule of least loss on the very batch under test (``"oracle"``)."""

InferenceRouting = Literal["majority", "best_validation", "min_entropy", "oracle"] | int | Sequence[int]
"""How a network routes without labels (and ``"oracle"``, which cheats, for analysis); see `PrimeNetwork`."""

ROUTING_MODES = ("majority", "best_validation", "min_entropy", "oracle")


def least_loss(values: Sequence[float]) -> int:
    r"""Choose the capsule of least loss, equation 4: :math:`\arg\min_k L_k`. Ties go to the first.

    Args:
        values: Mean local cross-entropies of the batch, one per capsule. They are numbers on the host: they cross once,
            all together, and choosing there costs less than any indexing on the device would.

    Returns:
        The index of the least loss.

    Example:
        >>> least_loss([0.7, 0.2, 0.2])
        1
    """
    return min(range(len(values)), key=values.__getitem__)


def least_entropy(logits: Tensor) -> Tensor:
    """Choose, for each sample, the capsule whose local classifier is surest. Needs no label.

    Args:
        logits: Local logits of all capsules, ``(capsules, batch, classes)``.

    Returns:
        Capsule indices, ``(batch,)``, int64.

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.1, 0.0]])
        >>> least_entropy(torch.stack([unsure, sure]))
        tensor([1])
    """
    log_p = logits.float().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return entropy.argmin(0)


class RouteHistory(nn.Module):
    """The joint routes that training took over its last batches, newest last.

    They are kept on the host, as integers, and in the checkpoint as an int64 tensor in the module's extra state
    rather than as a buffer: no average over ranks, no change of dtype and no broadcast of buffers can touch it, and
    adding to it costs no operation on the device.

    Args:
        window: How many batches are remembered.
        blocks: Length of a route.

    Raises:
        ValueError: If ``window`` is not positive.

    Example:
        >>> history = RouteHistory(window=9, blocks=2)
        >>> for route in [(0, 1), (0, 2), (1, 0), (1, 0)]:
        ...     history.append(route)
        >>> history.majority()  # block by block it would be (0, 0), which training never took
        (1, 0)
        >>> history.shares(block=0, capsules=3)
        [0.5, 0.5, 0.0]
    """

    def __init__(self, window: int, blocks: int = 1) -> None:
        super().__init__()
        at_least(1, "batch", routing_window=window)
        self.blocks = blocks
        self.ring: deque[Route] = deque(maxlen=window)

    def append(self, route: Route) -> None:
        """Remember that this route was taken.

        Args:
            route: One capsule index per block.
        """
        self.ring.append(route)

    def reduce_to_one(self, block: int) -> None:
        """Forget which capsules a block took: it has one left, whose index is 0.

        Args:
            block: The block's index.
        """
        routes = list(self.ring)
        self.ring.clear()
        for route in routes:
            self.ring.append((*route[:block], 0, *route[block + 1 :]))

    def majority(self) -> Route:
        """The route taken most often; ties go to the first in lexicographic order, and with none taken all are 0."""
        counts = Counter(self.ring)
        if not counts:
            return (0,) * self.blocks
        return min(counts, key=lambda route: (-counts[route], route))

    def shares(self, block: int, capsules: int) -> list[float]:
        """How often each capsule of a block was routed.

        Args:
            block: The block's index.
            capsules: Number of capsules in it.

        Returns:
            One share in [0, 1] a capsule; all zero before the first batch.
        """
        counts = Counter(route[block] for route in self.ring)
        batches = max(len(self.ring), 1)
        return [counts[index] / batches for index in range(capsules)]

    def get_extra_state(self) -> Tensor:
        """The ring as an int64 tensor, ``(batches, blocks)``."""
        return torch.tensor(list(self.ring), dtype=torch.int64).reshape(-1, self.blocks)

    def set_extra_state(self, state: Any) -> None:
        """Take a ring from a checkpoint; a longer one is cut to the window, newest kept."""
        self.ring.clear()
        self.ring.extend(tuple(route) for route in state.tolist())


def surest_maps(maps: Sequence[Tensor], logits: Sequence[Tensor]) -> Tensor:
    """Take each sample's map from the capsule whose verdict on it has the least entropy.

    Args:
        maps: Of each capsule, ``(batch, channels, height, width)``.
        logits: Of each capsule, ``(batch, classes)``.

    Returns:
        ``(batch, channels, height, width)``.
    """
    choice = least_entropy(torch.stack(list(logits)))
    return torch.stack(list(maps))[choice, torch.arange(choice.shape[0], device=choice.device)]


def without(route: Route | None, block: int, committed: int | None) -> Route | None:
    """Give what is left of a route when a block keeps one capsule.

    Args:
        route: One index per block, or None.
        block: The block's place.
        committed: The capsule that it keeps.

    Returns:
        The same route, whose index there is 0; None if it went another way.

    Example:
        >>> without((2, 1), 0, committed=2), without((0, 1), 0, committed=2)
        ((0, 1), None)
    """
    if route is None or route[block] != committed:
        return None
    return (*route[:block], 0, *route[block + 1 :])
