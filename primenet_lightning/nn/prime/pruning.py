"""Pruning: a block drops capsules that its router has decided against, or that the checkpoint it loads has dropped."""

from collections.abc import Mapping
from typing import Any

from primenet_lightning.nn.prime.capsule_dict import CapsuleDict
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routes import RouteHistory
from primenet_lightning.nn.stages import Stage


class PrunesCapsules(Stage):
    """A block of capsules that can drop all but one of them.

    Attributes:
        capsules: By name.
        router: Decides which one stays.
        history: The routing of training so far.
    """

    capsules: CapsuleDict
    router: Router
    history: RouteHistory

    @property
    def decided(self) -> bool:
        """Whether the router has decided against capsules that are still here, so that `prune` would drop them."""
        return self.router.committed is not None and len(self.capsules) > 1

    def prune(self) -> list[str]:
        """Drop, for good, all capsules but the one that the router has committed to; their parameters are freed.

        That is so whoever else refers to them. What an optimizer remembers of them, in a foreign model, is the
        optimizer's: drop these parameters there, and build it after a pruned checkpoint was loaded. Of a block inside a
        `PrimeNetwork` the network's ``prune`` takes care.

        Returns:
            Names of the capsules dropped; empty if the router has not committed, or all is done.

        Example:
            >>> from primenet_lightning.nn.prime.block import PrimeBlock
            >>> from primenet_lightning.nn.prime.lasting import Commit
            >>> router = Commit(warm_up=100)
            >>> block = PrimeBlock.multiscale(1, (8, 8), 3, channels=4, projection_channels=0, router=router)
            >>> block.prune()
            []
            >>> router.commit(2)
            >>> block.prune(), block.capsule_names
            (['k3', 'k5'], ['k7'])
        """
        committed = self.router.committed
        if committed is None or not self.decided:
            return []
        needed: set[int] = set()
        for part in self.children():
            if part is not self.capsules:
                needed.update(map(id, [*part.parameters(), *part.buffers()]))
        dropped = self.capsules.keep_only(self.capsules.names[committed], needed)
        self.router.pruned_to(committed)
        self.history.reduce_to_one(0)
        return [self.full_name(name) for name in dropped]

    def match(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Prune, or take back, what a checkpoint prunes, or has; before it is loaded.

        Args:
            state_dict: Of a model that has this block inside.
            prefix: What the names of the block's entries begin with, ``"network.blocks.0."``.
        """
        start = f"{prefix}capsules."
        names = {key[len(start) :].partition(".")[0] for key in state_dict if key.startswith(start)}
        if self.router.prunes and len(names) == 1 and names < set(self.capsules):
            self.router.commit(self.capsules.names.index(names.pop()))
            self.prune()
        elif self.capsules.misses(names):
            like = next(self.parameters())
            self.capsules.restore(like.device, like.dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Called by torch before the capsules are loaded."""
        self.match(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
