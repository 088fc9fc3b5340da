"""Routing over the epochs: which capsule goes on, how often that changes, by what margin, and what is odd about it.

Of a block whose router hands on all maps, or another capsule's for each image, nothing is routed by the batch: there
the capsule that has the least loss of a batch is counted, and is called that.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from primenet_lightning.nn.names import LearnerName
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.nn.prime.router import LeastLoss

Blocks = dict[str, list[str]]
"""Full names of the capsules, ``block0.k3``, in routing order, by block."""

History = Sequence[tuple[int, Mapping[str, float]]]
"""By epoch, its number and its means; see `EpochOfRoutes.means`."""


def blocks_of(network: PrimeNetwork) -> Blocks:
    """List the capsules that there are now; routers may prune.

    Args:
        network: The network.

    Returns:
        Full names by block.
    """
    return {LearnerName.parse(names[0]).stage: names for names in network.capsule_names}


def routed_blocks(network: PrimeNetwork) -> list[str]:
    """Tell which blocks route a batch as a whole; what is counted of others is who has the least loss.

    Args:
        network: The network.

    Returns:
        Names of these blocks; none of a network that is trained end to end.
    """
    if not network.local:
        return []
    blocks: list[str] = []
    for block, prime_block in zip(blocks_of(network), network.prime_blocks, strict=True):
        if prime_block.router.routes_batches:
            blocks.append(block)
    return blocks


def shares_of_capsules(network: PrimeNetwork) -> dict[str, dict[str, float]]:
    """Tell what each capsule's share of the last training batches was.

    Args:
        network: The network.

    Returns:
        ``"routing"``: by full name, the share of batches that were routed to a capsule, in blocks that route batches.
        ``"least_loss"``: by full name, the share of batches in which a capsule had the least loss, in blocks that hand
        on all maps or each image's own. Either is left out where there is no such block.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> model = PrimeNet(1, (8, 8), num_classes=3, channels=4, router="concatenate")
        >>> shares_of_capsules(model.network)
        {'least_loss': {'block0.k3': 0.0, 'block0.k5': 0.0, 'block0.k7': 0.0}}
    """
    routed = routed_blocks(network)
    shares_by_kind: dict[str, dict[str, float]] = {}
    for place, (block, names) in enumerate(blocks_of(network).items()):
        kind = "routing" if block in routed else "least_loss"
        shares = network.history.shares(place, len(names))
        shares_by_kind.setdefault(kind, {}).update(zip(names, shares, strict=True))
    return shares_by_kind


@dataclass
class EpochOfRoutes:
    """What an epoch has counted so far, in plain values, which a checkpoint can hold; by capsule or by block.

    Attributes:
        number: Of the epoch; -1 before the first.
        batches: How many were counted.
        taken: Batches in which a capsule was routed; where nothing is routed, in which it had the least loss.
        losses: Sums of a capsule's losses.
        switches: Batches in which that was another capsule of a block than in the batch before.
        margins: Sums of the differences between the least and the second least loss, for blocks of several capsules.
        seen: Batches that a capsule's losses, or a block's margins, are sums of.
    """

    number: int = -1
    batches: int = 0
    taken: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    switches: dict[str, int] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    @classmethod
    def start(cls, number: int, blocks: Blocks) -> "EpochOfRoutes":
        """Begin to count.

        Args:
            number: Of the epoch.
            blocks: The capsules.

        Returns:
            An epoch without a batch.
        """
        epoch = cls(number)
        for block, names in blocks.items():
            epoch.switches[block] = 0
            epoch.taken |= dict.fromkeys(names, 0)
            epoch.losses |= dict.fromkeys(names, 0.0)
            epoch.seen |= dict.fromkeys(names, 0)
            if len(names) > 1:
                epoch.margins[block] = 0.0
                epoch.seen[block] = 0
        return epoch

    def add(self, blocks: Blocks, routed: Sequence[str], before: Sequence[str], losses: Mapping[str, float]) -> None:
        """Count a batch.

        Args:
            blocks: The capsules that are there.
            routed: Full name of the routed capsule, one per block.
            before: Those of the batch before; empty for the first.
            losses: By full name.
        """
        self.batches += 1
        for place, (block, names) in enumerate(blocks.items()):
            self.taken[routed[place]] += 1
            if before and before[place] != routed[place]:
                self.switches[block] += 1
            if block in self.margins and len(names) > 1:
                least, second = sorted([losses[name] for name in names])[:2]
                self.margins[block] += second - least
                self.seen[block] += 1
            for name in names:
                self.losses[name] += losses[name]
                self.seen[name] += 1

    def means(self, routed: Collection[str]) -> dict[str, float]:
        """Give the epoch in numbers.

        Args:
            routed: Names of the blocks that route batches.

        Returns:
            ``share/<capsule>``, ``switches/<block>``, ``margin/<block>``, ``loss/<capsule>``; of other blocks
            ``least_loss/<capsule>`` and ``changes/<block>`` instead of the first two.
        """
        means: dict[str, float] = {}
        for name, count in self.taken.items():
            kind = "share" if LearnerName.parse(name).stage in routed else "least_loss"
            means[f"{kind}/{name}"] = count / self.batches
        for name, count in self.switches.items():
            kind = "switches" if name in routed else "changes"
            means[f"{kind}/{name}"] = count / self.batches
        sums: dict[str, Mapping[str, float]] = {"margin": self.margins, "loss": self.losses}
        for kind, sum_by_name in sums.items():
            for name, total in sum_by_name.items():
                # a capsule that is pruned in the middle of an epoch has been there for a part of it, or for none
                batches = self.seen.get(name, self.batches)
                if batches:
                    means[f"{kind}/{name}"] = total / batches
        return means


def routed_alone(network: PrimeNetwork, blocks: Blocks, epoch: EpochOfRoutes) -> dict[str, str]:
    """Find blocks of several capsules of which an epoch routed one in every batch, where no more was wanted.

    Args:
        network: The network.
        blocks: Its capsules.
        epoch: A whole epoch.

    Returns:
        The capsule by block.
    """
    alone: dict[str, str] = {}
    for (block, names), prime_block in zip(blocks.items(), network.prime_blocks, strict=True):
        if type(prime_block.router) is not LeastLoss or len(names) == 1:
            continue
        for name in names:
            if epoch.taken[name] == epoch.batches:
                alone[block] = name
    return alone


def inferred_otherwise(network: PrimeNetwork, blocks: Blocks, epoch: EpochOfRoutes) -> dict[str, str]:
    """Find blocks of which label-free inference takes another capsule than an epoch routed most.

    Args:
        network: The network.
        blocks: Its capsules.
        epoch: A whole epoch.

    Returns:
        By block, the capsule of inference and the one routed more often, in words.
    """
    try:
        route = network.inference_route()
    except ValueError:
        return {}  # each sample takes its own, or nothing is selected yet
    otherwise: dict[str, str] = {}
    for (block, names), index, prime_block in zip(blocks.items(), route, network.prime_blocks, strict=True):
        if not prime_block.router.chooses:
            continue
        most = max(names, key=epoch.taken.__getitem__)
        if epoch.taken[names[index]] < epoch.taken[most]:
            share = 100 * epoch.taken[most] / epoch.batches
            otherwise[block] = f"{names[index]} instead of {most} ({share:.0f}% of batches)"
    return otherwise


def stopped_learning(
    capsules: Sequence[str], history: History, patience: int, min_improvement: float
) -> dict[str, str]:
    """Find capsules whose mean loss has not improved for so many epochs.

    Args:
        capsules: Full names.
        history: Of all epochs.
        patience: How many epochs.
        min_improvement: See `best_and_since`.

    Returns:
        By capsule, its best mean loss, in words.
    """
    stopped: dict[str, str] = {}
    for name in capsules:
        losses = [means[f"loss/{name}"] for _, means in history if f"loss/{name}" in means]
        best, since = best_and_since(losses, min_improvement)
        if since >= patience:
            stopped[name] = f"{name} (best {best:.4g} nats)"
    return stopped


def best_and_since(losses: Sequence[float], min_improvement: float) -> tuple[float, int]:
    """Follow a loss over the epochs.

    Args:
        losses: By epoch.
        min_improvement: By which part of the best a loss must fall to be the new best.

    Returns:
        The best, and how many epochs have passed since; infinity and 0 if there is none.

    Example:
        >>> best_and_since([1.0, 0.5, 0.4999, 0.6], min_improvement=1e-3)
        (0.5, 2)
    """
    best, since = float("inf"), 0
    for loss in losses:
        if loss < best * (1 - min_improvement) or best == float("inf"):
            best, since = loss, 0
        else:
            since += 1
    return best, since
