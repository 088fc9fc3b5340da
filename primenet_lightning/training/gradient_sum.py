"""Gradients, summed over ranks in one message, and batch-norm statistics, averaged on the same way."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm


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
    if all(present):
        parts.append(like.new_ones(len(present)))  # made on a GPU: a copy from here would have to be waited for
    else:
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
