"""Several processes, one training: what is averaged over ranks, and when. Pure torch.distributed, no Lightning.

Averages are weighted by the images of each rank's share, so that shares of unequal size give what one process would
have computed on the whole batch. Only batch normalization sees the difference: in training it normalises by the
statistics of the rank's own share (``SyncBatchNorm`` takes the whole batch's).
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import WHOLE, Share


class BatchShare:
    """This rank's share of a global batch, and the averages over all shares.

    The number of images is summed over ranks at once, in the background; nobody waits for it before the first losses
    are averaged. Flags ride along at no cost, which is how all ranks learn in the same step that one of them was
    asked to stop.

    Args:
        count: Images in this rank's share.
        device: Of the losses.
        flags: What this rank has to say to all others.
        group: The processes that share the batch; None for all.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> share = BatchShare(20, torch.device("cpu"), flags=[True, False])
        >>> share.weight, share.mean(torch.tensor([0.5, 0.25])).tolist(), share.any([False, False])
        (1.0, [0.5, 0.25], [True, False])
        >>> dist.destroy_process_group()
    """

    def __init__(
        self, count: int, device: torch.device, flags: Sequence[bool] = (), group: ProcessGroup | None = None
    ) -> None:
        self.count = count
        self.group = group
        self._sums = torch.tensor([count, *flags], dtype=torch.float32, device=device)
        self._work: Any = dist.all_reduce(self._sums, async_op=True, group=group)
        self._host: list[float] = []

    def _totals(self) -> list[float]:
        if self._work is not None:
            self._work.wait()
            self._work, self._host = None, self._sums.tolist()
        return self._host

    @property
    def weight(self) -> float:
        """Images in this share over those of the global batch."""
        return self.count / self._totals()[0]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Tell which flags at least one rank had raised when the batch was shared out.

        Args:
            flags: Not looked at: those of this rank have been sent already.

        Returns:
            One a flag, the same on every rank.
        """
        return [total > 0 for total in self._totals()[1:]]

    def mean(self, values: Tensor) -> Tensor:
        """Average means over all shares; a NaN on one rank is a NaN on all.

        Args:
            values: Means over this rank's share, ``(values,)``.

        Returns:
            Means over the global batch, ``(values,)``, bit for bit the same on every rank.
        """
        weighted = values * self.weight
        dist.all_reduce(weighted, group=self.group)
        return weighted

    def draw(self, count: int, numbers: int, device: torch.device) -> Tensor:
        """Draw random numbers for the images here: those of the global batch, of which each rank takes its own.

        They are those of one process where the ranks' generators agree and the batch is cut into consecutive shares,
        as by `primenet_lightning.datamodules.samplers`; otherwise each rank has numbers of its own.

        Args:
            count: Images here.
            numbers: How many numbers an image.
            device: Whose generator they come from.

        Returns:
            Uniform in [0, 1), float32, ``(count, numbers)``.
        """
        images = round(self._totals()[0])
        size, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        of_all = torch.rand(images, numbers, dtype=torch.float32, device=device)
        own = of_all.tensor_split(size)[rank]
        if len(own) == count:
            return own
        apart = torch.rand(size * images, numbers, dtype=torch.float32, device=device)  # or ranks would draw the same
        return apart[rank * images : rank * images + count]


class _Bucket(NamedTuple):
    """Tensors of one dtype on their way through one all-reduce."""

    parameters: list[nn.Parameter]
    statistics: list[Tensor]
    flat: Tensor
    work: Any


class GradientSum:
    """Sums gradients over ranks: one all-reduce for all that are handed over together, of 1.00 x their bytes.

    Gradients are summed, not averaged: whoever scaled the losses by `BatchShare.weight` then has the gradient of the
    global batch's mean loss. Where a parameter has no gradient on a rank, zeros are sent; one number per parameter
    says so, and where no rank had a gradient there is none afterwards, as on one process.

    Args:
        group: The processes that sum; None for all.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> layer = nn.Linear(2, 1)
        >>> layer(torch.ones(3, 2)).sum().backward()
        >>> gradients = GradientSum()
        >>> gradients.start(layer.parameters())
        >>> gradients.finish()
        >>> layer.weight.grad.tolist()
        [[3.0, 3.0]]
        >>> dist.destroy_process_group()
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.group = group
        self._buckets: list[_Bucket] = []

    def start(self, parameters: Iterable[nn.Parameter], statistics: Iterable[Tensor] = (), weight: float = 1.0) -> None:
        """Send gradients on their way, in the background.

        Args:
            parameters: Whose gradients; those that require none are left out. The same on every rank.
            statistics: Floating-point buffers of any shape to be averaged on the same way, see
                `batch_norm_statistics`.
            weight: Of this rank's statistics in that average.
        """
        groups: dict[tuple[torch.dtype, torch.device], tuple[list[nn.Parameter], list[Tensor]]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                groups.setdefault((parameter.dtype, parameter.device), ([], []))[0].append(parameter)
        for buffer in statistics:
            groups.setdefault((buffer.dtype, buffer.device), ([], []))[1].append(buffer)
        for members, buffers in groups.values():
            flat = _flattened(members, buffers, weight)
            work = dist.all_reduce(flat, async_op=True, group=self.group)
            self._buckets.append(_Bucket(members, buffers, flat, work))

    @torch.no_grad()
    def finish(self) -> None:
        """Wait for everything that was started, and put the sums in its place."""
        for parameters, statistics, flat, work in self._buckets:
            work.wait()
            sizes = [tensor.numel() for tensor in chain(parameters, statistics)]
            parts = torch.split(flat[: sum(sizes)], sizes)
            for parameter, part in zip(parameters, parts[: len(parameters)], strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(part.view_as(parameter))
            for buffer, part in zip(statistics, parts[len(parameters) :], strict=True):
                buffer.copy_(part.view_as(buffer))
            missing = [index for index, parameter in enumerate(parameters) if parameter.grad is None]
            for index in missing:  # only now does anybody look at the flags, which on a GPU is waiting
                if flat[sum(sizes) + index] > 0:
                    parameters[index].grad = parts[index].view_as(parameters[index]).clone()
        self._buckets.clear()


def _flattened(parameters: Sequence[nn.Parameter], statistics: Sequence[Tensor], weight: float) -> Tensor:
    """Gradients, zeros where there are none; weighted statistics; and one number per parameter: which is which."""
    parts: list[Tensor] = []
    present: list[float] = []
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parts.append(gradient.reshape(-1))
        present.append(float(parameter.grad is not None))
    for buffer in statistics:
        parts.append(buffer.reshape(-1) * weight)
    like = parts[0]
    parts.append(torch.tensor(present, dtype=like.dtype, device=like.device))
    return torch.cat(parts)


def batch_norm_statistics(module: nn.Module) -> list[Tensor]:
    """Running means and variances that training on shares of a batch lets drift apart, rank by rank.

    Those of ``SyncBatchNorm`` and of layers in evaluation mode are the same on every rank and left out; so are those
    that have no memory here, since another process runs their stage. Buffers of
    other kinds are each rank's own affair; the checkpoint has rank 0's.

    Args:
        module: Any module.

    Returns:
        The buffers, ``(channels,)`` each, in the order of the modules.

    Example:
        >>> [buffer.shape for buffer in batch_norm_statistics(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))]
        [torch.Size([3]), torch.Size([3])]
    """
    return [
        buffer
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.training and not isinstance(part, nn.SyncBatchNorm)
        for buffer in (part.running_mean, part.running_var)
        if buffer is not None and not buffer.is_meta
    ]


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

    A batch costs a message of images and flags, and one of losses per stage; its window ends with one per dtype of the
    gradients, with the batch-norm statistics, which are so equal on all processes after every step.

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
