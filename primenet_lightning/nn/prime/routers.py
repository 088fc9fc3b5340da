"""Routers: what a block hands on of its capsules' maps.

The paper hands on the map of the capsule with the least loss of the batch (equation 4). In a stack that choice flips
between capsules whose channels mean different things, and all that follows suffers. The other routers here settle on a
capsule, keep all maps, or learn the choice; `docs/deep.md` has what each of them costs and gives. Two more, `Fixed` and
`RandomChoice`, are there for comparison: they show what a choice by the losses is worth.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from primenet_lightning.arguments import with_options
from primenet_lightning.nn.classifiers import glorot_
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.prime.routes import least_loss
from primenet_lightning.training.exchange import Average

RouterName = Literal["least_loss", "settle", "commit", "concatenate", "mean", "gate", "fixed", "random"]

GATE = "gate"
"""Name of a learned router's own loss."""


class Router(nn.Module):
    """What a block hands on of its capsules' maps. A subclass overrides what differs; this one hands on one map.

    Every block has a router of its own. In training the block calls `route` with the losses, then `select` with the
    maps; in evaluation `select`, and at inference `infer`, which computes only what is needed. None of the latter two
    is given labels or losses.

    Attributes:
        name: Its name in options.
        chooses: Whether it hands on the map of the capsule that it is told, so that a route may be fixed from outside
            (``inference_routing``). False where it makes its own of all maps.
        needs_losses: Whether it needs local losses; only without can its block be trained end to end.
        learns: Whether it has a loss of its own.
        committed: The capsule that the block keeps for good, by index; None while it keeps all.

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
    committed: int | None = None

    @property
    def settled(self) -> int | None:
        """The capsule that label-free inference takes, by index; None leaves that to the routes of the last batches."""
        return None

    def build(self, in_shape: tuple[int, int, int], capsules: int) -> None:
        """Prepare for a block; called once, when the block is built.

        Args:
            in_shape: Channels, height and width of the block's input.
            capsules: How many capsules it has.
        """

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
            values: Local losses of the (global) batch, one a capsule.

        Returns:
            The leader's index; a router that `chooses` hands on its map.
        """
        return least_loss(values)

    def select(
        self, x: Tensor, maps: Sequence[Tensor], index: int, average: Average | None = None
    ) -> tuple[Tensor, int]:
        """Make of all maps what goes on. Sees no label.

        Args:
            x: The block's input, ``(batch, in_channels, height', width')``, detached.
            maps: One a capsule, ``(batch, channels, height, width)``.
            index: The leader, in training from `route`, else from the inference route.
            average: Averages numbers, ``(capsules,)``, over processes that share a batch.

        Returns:
            ``(batch, out_channels, height, width)``, and the index of the capsule that the batch is counted for.
        """
        return maps[index], index

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute what goes on, and no more than that needs.

        Args:
            x: The block's input, ``(batch, in_channels, height', width')``, detached.
            features: From ``x`` to a map, one a capsule.
            index: From the inference route.

        Returns:
            ``(batch, out_channels, height, width)``.
        """
        feature_map: Tensor = features[index](x)
        return feature_map

    def loss(self, x: Tensor, losses: Tensor, average: Average | None = None) -> Tensor | None:
        """Give the loss that the router itself learns from.

        Args:
            x: The block's input, ``(batch, in_channels, height', width')``, detached.
            losses: Cross-entropies, ``(capsules, batch)``, detached.
            average: Averages numbers, ``(capsules,)``, over processes that share a batch.

        Returns:
            A scalar, or None where nothing is learned.
        """
        return None

    def keep(self, kept: int) -> None:
        """Go on with one capsule: all others have been pruned.

        Args:
            kept: Its index until now; it is 0 from now on.
        """


class LeastLoss(Router):
    """The paper's: the capsule of least loss of the batch, equation 4."""

    name = "least_loss"


class Settle(Router):
    r"""The capsule of least *lasting* loss, which another one has to beat clearly.

    Of each capsule's loss a moving average is kept, :math:`m_t = \beta m_{t-1} + (1 - \beta) L_t`, corrected for its
    start as in Adam. The leader stays until another one's average falls below ``1 - hysteresis`` of its own.

    Args:
        decay: :math:`\beta`.
        hysteresis: By which part of the leader's average a challenger must be better.

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
        self.decay, self.hysteresis = decay, hysteresis
        self.seen, self.leader = 0, 0
        self.averages: list[float] = []

    def route(self, values: Sequence[float]) -> int:
        """Follow the losses; see the class."""
        if not self.averages:
            self.averages = [0.0] * len(values)
        self.seen += 1
        self.averages = [
            self.decay * average + (1 - self.decay) * value
            for average, value in zip(self.averages, values, strict=True)
        ]
        best = least_loss(self.averages)
        # the correction for the start is the same factor on both sides
        if self.seen == 1 or self.averages[best] < (1 - self.hysteresis) * self.averages[self.leader]:
            self.leader = best
        return self.leader

    @property
    def settled(self) -> int | None:
        """The leader: what follows has lately seen no other's maps."""
        return self.leader if self.seen else None

    def keep(self, kept: int) -> None:
        """Forget the others."""
        self.averages = [self.averages[kept]] if self.averages else []
        self.leader = 0

    def get_extra_state(self) -> Tensor:
        """Batches seen, the leader, whether it is kept for good, and the averages: float64, which holds them all."""
        state = [self.seen, self.leader, self.committed is not None, *self.averages]
        return torch.tensor(state, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Take them from a checkpoint."""
        seen, leader, committed, *self.averages = state.tolist()
        self.seen, self.leader = int(seen), int(leader)
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

    Raises:
        ValueError: If ``warm_up`` is not positive, or as `Settle`.

    Example:
        >>> router = Commit(warm_up=2, decay=0.0)
        >>> [router.route(losses) for losses in [(1.0, 0.9), (0.5, 0.9), (1.0, 0.1)]], router.committed
        ([1, 0, 0], 0)
    """

    name = "commit"

    def __init__(self, warm_up: int = 500, decay: float = 0.98, hysteresis: float = 0.02) -> None:
        super().__init__(decay, hysteresis)
        if warm_up < 1:
            raise ValueError(f"warm_up={warm_up} must be at least 1 batch")
        self.warm_up = warm_up

    def route(self, values: Sequence[float]) -> int:
        """Follow the losses until the end of the warm-up, and nothing after it."""
        if self.committed is None:
            super().route(values)
            if self.seen >= self.warm_up:
                self.commit(self.leader)
        return self.leader

    def commit(self, index: int) -> None:
        """Keep a capsule for good, whatever the losses say.

        Args:
            index: The capsule's.
        """
        self.committed = self.leader = index
        self.seen = max(self.seen, 1)

    def keep(self, kept: int) -> None:
        """Forget the others."""
        super().keep(kept)
        self.committed = 0


class Concatenate(Router):
    """All maps, one after the other: every scale goes on, and the next block has the choice by its 1x1 convolutions."""

    name = "concatenate"
    chooses = False
    needs_losses = False

    def out_channels(self, channels: int, capsules: int) -> int:
        """All channels of all capsules."""
        return channels * capsules

    def select(
        self, x: Tensor, maps: Sequence[Tensor], index: int, average: Average | None = None
    ) -> tuple[Tensor, int]:
        """Put the maps one after the other."""
        return torch.cat(list(maps), dim=1), index

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute all maps."""
        return self.select(x, [feature(x) for feature in features], index)[0]


class Mean(Router):
    """The mean of all maps."""

    name = "mean"
    chooses = False
    needs_losses = False

    def select(
        self, x: Tensor, maps: Sequence[Tensor], index: int, average: Average | None = None
    ) -> tuple[Tensor, int]:
        """Average the maps."""
        return sum(maps[1:], maps[0]) / len(maps), index

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute all maps."""
        return self.select(x, [feature(x) for feature in features], index)[0]


class Gate(Router):
    r"""A small classifier of the block's input that predicts which capsule will have the least loss.

    .. math:: g = W_2 \, \mathrm{LeakyReLU}(W_1 \, \mathrm{pool}(x)), \qquad
              L_{gate} = CE(\arg\min_k L_k, g)

    It learns from the local losses by a loss and an optimizer of its own, called ``gate``, and routes in training and
    inference alike, so that what follows sees the same mixture of maps in both. The labels reach it only through the
    losses, in training.

    Args:
        per: ``"sample"``: each image takes its own capsule, predicted from its own losses. ``"batch"``: all images of a
            batch take the one of the largest mean score, predicted from the losses of the batch; what an image gets
            then depends on the others in its batch.
        hidden: Width of the hidden layer.

    Raises:
        ValueError: If ``per`` is neither of the two, or ``hidden`` is not positive.

    Example:
        >>> gate = Gate(per="sample")
        >>> gate.build((3, 32, 32), capsules=3)
        >>> gate(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    name = "gate"
    chooses = False
    learns = True

    def __init__(self, per: Literal["sample", "batch"] = "sample", hidden: int = 32) -> None:
        super().__init__()
        if per not in ("sample", "batch"):
            raise ValueError(f"per={per!r} is unknown; use 'sample' or 'batch'")
        if hidden < 1:
            raise ValueError(f"hidden={hidden} must be at least 1")
        self.per, self.hidden = per, hidden
        self.classifier = nn.Sequential()

    def build(self, in_shape: tuple[int, int, int], capsules: int) -> None:
        """Make the classifier for inputs of this shape."""
        grid = min(4, *in_shape[1:])
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Linear(in_shape[0] * grid * grid, self.hidden),
            nn.LeakyReLU(),
            nn.Linear(self.hidden, capsules),
        )
        glorot_(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Score the capsules.

        Args:
            x: The block's input, ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, capsules)``; the largest is the choice.
        """
        scores: Tensor = self.classifier(x)
        return scores

    def loss(self, x: Tensor, losses: Tensor, average: Average | None = None) -> Tensor:
        """Cross-entropy against the capsule of least loss, of the image or of the (global) batch."""
        if self.per == "sample":
            best = losses.argmin(0)
        else:
            means = losses.mean(1)
            best = (means if average is None else average(means)).argmin().expand(losses.shape[1])
        return cross_entropy(self(x), best)

    @torch.no_grad()
    def select(
        self, x: Tensor, maps: Sequence[Tensor], index: int, average: Average | None = None
    ) -> tuple[Tensor, int]:
        """Take each image's map from the capsule of its largest score; or all from that of the largest mean score."""
        if self.per == "batch":
            index = self._of_batch(x, average)
            return maps[index], index
        choice = self(x).argmax(1)
        return torch.stack(list(maps))[choice, torch.arange(len(choice), device=choice.device)], index

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute of each capsule the images that take it."""
        if self.per == "batch":
            feature_map: Tensor = features[self._of_batch(x)](x)
            return feature_map
        if not len(x) or torch.compiler.is_compiling():  # an exported graph has no rows to count
            return self.select(x, [feature(x) for feature in features], index)[0]
        choice = self(x).argmax(1)
        rows = [(choice == index).nonzero()[:, 0] for index in range(len(features))]
        # in order of the images again
        order = torch.cat(rows).argsort()
        return torch.cat([feature(x[mine]) for feature, mine in zip(features, rows, strict=True) if len(mine)])[order]

    def _of_batch(self, x: Tensor, average: Average | None = None) -> int:
        scores = self(x).float().mean(0)
        return int((scores if average is None else average(scores)).argmax())


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

    def build(self, in_shape: tuple[int, int, int], capsules: int) -> None:
        """Refuse a block that has no such capsule.

        Args:
            in_shape: Not looked at.
            capsules: How many capsules the block has.

        Raises:
            ValueError: If they do not reach so far.
        """
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
    where a checkpoint left off. Blocks of a stack choose each for itself.

    A label-free forward does not choose at random: as under `LeastLoss` it takes the route that training took most
    often over the last ``routing_window`` batches, or what another ``inference_routing`` says.

    Args:
        seed: Which of the random sequences; at least 0.

    Attributes:
        block: The block's index, which `build_router` sets. Blocks of a foreign model need seeds of their own instead.
        seen: Training batches until now.

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
        if seed < 0:
            raise ValueError(f"seed={seed} must be at least 0")
        self.seed = operator.index(seed)
        self.block, self.seen = 0, 0

    def route(self, values: Sequence[float]) -> int:
        """Draw a capsule; of the losses only their number matters."""
        # a SeedSequence mixes its numbers well and is promised to be the same in every version of numpy
        (drawn,) = np.random.SeedSequence((self.seed, self.block, self.seen)).generate_state(1, np.uint64).tolist()
        self.seen += 1
        index: int = drawn % len(values)
        return index

    def get_extra_state(self) -> Tensor:
        """Batches seen, int64, ``(1,)``: no buffer, for the reasons that `RouteHistory` gives."""
        return torch.tensor([self.seen], dtype=torch.int64)

    def set_extra_state(self, state: Any) -> None:
        """Take it from a checkpoint."""
        (self.seen,) = state.tolist()


_KINDS = (LeastLoss, Settle, Commit, Concatenate, Mean, Gate, Fixed, RandomChoice)

ROUTERS: Mapping[str, type[Router]] = {kind.name: kind for kind in _KINDS}
"""Routers by name."""


def build_router(name: str = "least_loss", index: int = 0, options: Mapping[str, Any] | None = None) -> Router:
    """Make a router by name.

    Args:
        name: One of `ROUTERS`.
        index: The block's index: block by block, `Commit` gives each its own warm-up, one after the other, and
            `RandomChoice` its own sequence.
        options: Arguments of the router's class.

    Returns:
        A new router.

    Raises:
        ValueError: If there is no such router, or it has no such option.

    Example:
        >>> build_router("commit", index=2, options={"warm_up": 100}).warm_up
        300
    """
    if name not in ROUTERS:
        raise ValueError(f"router={name!r} is unknown; use one of {', '.join(map(repr, ROUTERS))}")
    router = with_options("router", name, ROUTERS[name], options)
    if isinstance(router, Commit):
        router.warm_up *= index + 1
    if isinstance(router, RandomChoice):
        router.block = index
    return router
