"""Memory layout: channels last, in which poolings and batch norms run several times as fast on a CPU."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def channels_last(x: Tensor) -> Tensor:
    """Lay a batch of maps out channels last, unless it is so already; the values stay what they are.

    One channel is the same in memory either way, and torch then takes it for channels first. Here its strides say
    channels last, so that what a convolution makes of it is laid out so too.

    Args:
        x: ``(batch, channels, height, width)``.

    Returns:
        The same shape and values.

    Example:
        >>> import torch
        >>> channels_last(torch.zeros(2, 3, 8, 8)).stride()
        (192, 1, 24, 3)
        >>> channels_last(torch.zeros(2, 1, 8, 8)).stride()
        (64, 1, 8, 1)
    """
    if x.shape[1] == 1:
        return x.squeeze(1).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    """Compute in the tensors' own precision, also where autocast is on.

    Args:
        x: Of any shape, on the device whose autocast is meant.

    Returns:
        A context.
    """
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def is_plain(layer: nn.Module, kind: type[Layer]) -> TypeGuard[Layer]:
    """Tell whether a layer does what its kind does and no more, so that its parameters say all.

    Args:
        layer: Any module.
        kind: A class of torch's.

    Returns:
        False for a subclass, such as a parametrized layer, and for one with hooks or a ``forward`` of its own, which
        only a call would run.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is kind and "forward" not in vars(layer) and not any(hooks)
