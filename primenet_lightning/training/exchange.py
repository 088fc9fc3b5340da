"""Several processes, one training: what is averaged over ranks, and when. Pure torch.distributed, no Lightning.

Averages are weighted by the images of each rank's share, so that shares of unequal size give what one process would
have computed on the whole batch. Only batch normalization sees the difference: in training it normalises by the
statistics of the rank's own share (``SyncBatchNorm`` takes the whole batch's).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.training.batch_share import BatchShare
from primenet_lightning.training.gradient_sum import GradientSum, batch_norm_statistics


def gather(value: Any, group: ProcessGroup | None = None) -> list[Any]:
    """Collect one small object of each process; every process has to call it.

    Args:
        value: Anything that can be pickled.
        group: The processes; None for all.

    Returns:
        The objects by process, on every process.
    """
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, value, group=group)
    return gathered


class Exchange(Protocol):
    """What passes between processes that each have a replica of the network."""

    @property
    def rank(self) -> int:
        """Of this process among them."""
        ...

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def share(self, count: int, device: torch.device, flags: Sequence[bool] = ()) -> Share:
        """Share out a training batch.

        Args:
            count: Images that this process has of it.
            device: Of the losses.
            flags: What this process has to say to all others.

        Returns:
            This process's share.
        """
        ...

    def start(self, network: StagedNetwork, learners: Iterable[str], share: Share, last: bool) -> None:
        """Send the gradients of some learners on their way.

        Args:
            network: Whose learners.
            learners: Their full names.
            share: Of this process in the batch that they learned from.
            last: Whether this is the batch's last message, with which batch-norm statistics travel.
        """
        ...

    def finish(self) -> None:
        """Wait for everything that was started, and have the gradients of the global batch in their place."""
        ...

    def settle(self, network: StagedNetwork) -> None:
        """Average what has drifted apart since the last message.

        Args:
            network: Of this process.
        """
        ...

    def gather(self, value: Any) -> list[Any]:
        """Collect one small object of each process.

        Args:
            value: Anything that can be pickled.

        Returns:
            The objects by process.
        """
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Add up over processes.

        Args:
            values: Numbers of this process, of any shape.

        Returns:
            Their sums, of the same shape.
        """
        ...


class _Alone(Exchange):
    """One process: it has the whole batch, and nobody to tell."""

    rank = 0
    size = 1

    def share(self, count: int, device: torch.device, flags: Sequence[bool] = ()) -> Share:
        return WHOLE

    def start(self, network: StagedNetwork, learners: Iterable[str], share: Share, last: bool) -> None:
        pass

    def finish(self) -> None:
        pass

    def settle(self, network: StagedNetwork) -> None:
        pass

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def sum(self, values: Tensor) -> Tensor:
        return values


ALONE: Exchange = _Alone()
"""The exchange of one process with nobody."""


class Replicas(Exchange):
    """Processes that each have the whole network, and a share of each batch.

    A batch costs a message of images and flags, and one of losses per stage (on a GPU, per stage that chooses by them).
    A window ends with one per dtype of the gradients, with the batch-norm statistics, which are so equal on all
    processes after every step.

    Args:
        group: The processes; None for all.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self._gradients = GradientSum(group)
        self._drifted = False

    @property
    def rank(self) -> int:
        """Of this process among the replicas."""
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """How many replicas there are."""
        return dist.get_world_size(self.group)

    def share(self, count: int, device: torch.device, flags: Sequence[bool] = ()) -> Share:
        """Share out a training batch; from now on statistics drift apart. See `Exchange.share`."""
        self._drifted = True
        return BatchShare(count, device, flags, self.group)

    def start(self, network: StagedNetwork, learners: Iterable[str], share: Share, last: bool) -> None:
        """Send gradients on their way, in one flat message; see `Exchange.start`."""
        parameters_by_learner = network.learners()
        parameters = [parameter for name in learners for parameter in parameters_by_learner.get(name, [])]
        statistics: list[Tensor] = []
        if last:
            statistics = batch_norm_statistics(network)
            self._drifted = False
        # the weight is the statistics': gradients come weighted already, by their losses
        self._gradients.start(parameters, statistics, share.weight)

    def finish(self) -> None:
        """Wait for the gradients of the global batch; see `Exchange.finish`."""
        self._gradients.finish()

    @torch.no_grad()
    def settle(self, network: StagedNetwork) -> None:
        """Average batch-norm statistics where no step has done so since the last batch; every process has to call."""
        if self._drifted:
            statistics = GradientSum(self.group)
            statistics.start([], batch_norm_statistics(network), weight=1 / dist.get_world_size(self.group))
            statistics.finish()
        self._drifted = False

    def gather(self, value: Any) -> list[Any]:
        """Collect one small object of each process; every process has to call it."""
        return gather(value, self.group)

    def sum(self, values: Tensor) -> Tensor:
        """Add up over processes; every process has to call it."""
        summed = values.clone()
        dist.all_reduce(summed, group=self.group)
        return summed
