"""Layers run otherwise than they are written, to the same numbers and faster.

A ``run_`` function equals its layers called one after the other. It looks first whether the other way is the faster
one here, and whether the layers are what they seem: a call of a layer may do more than its parameters say.
"""

from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.nn.layers import autocast_off

Layer = TypeVar("Layer", bound=nn.Module)

FEW_CHANNELS = 8
"""Below so many, torch's max pool on the CPU goes value by value: half of `compact`'s projection of a color image."""


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


# -- a 1x1 convolution and another one: one convolution ----------------------------------------------------------------


def run_convolutions(reduce: nn.Module, spatial: nn.Module, x: Tensor) -> Tensor:
    """Equal ``spatial(reduce(x))`` but for rounding; as one convolution, where the two are such.

    Args:
        reduce: A 1x1 convolution.
        spatial: The one after it.
        x: ``(batch, in_channels, height, width)``.

    Returns:
        ``(batch, channels, height', width')``.
    """
    if is_plain(reduce, nn.Conv2d) and is_plain(spatial, nn.Conv2d) and can_fold(reduce, spatial):
        return functional.conv2d(x, fold(reduce, spatial), None, spatial.stride, spatial.padding)
    y: Tensor = spatial(reduce(x))
    return y


def fold(reduce: nn.Conv2d, spatial: nn.Conv2d) -> Tensor:
    """Give the kernel of the one convolution that equals a 1x1 convolution followed by another, neither with a bias.

    Args:
        reduce: The 1x1 convolution.
        spatial: The one after it, with zeros as padding.

    Returns:
        ``(channels, in_channels, k, k)``, in the weights' precision also under autocast, which then rounds once.
    """
    with autocast_off(spatial.weight):
        return torch.einsum("orhw,rc->ochw", spatial.weight, reduce.weight.flatten(1))


def can_fold(reduce: nn.Conv2d, spatial: nn.Conv2d) -> bool:
    """Tell whether two convolutions have no bias, groups, dilation or other padding, and the first is 1x1.

    Args:
        reduce: The first.
        spatial: The one after it.

    Returns:
        Whether `fold` makes one of them.
    """
    for layer in (reduce, spatial):
        if layer.bias is not None or layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros":
            return False
    return (reduce.kernel_size, reduce.stride, reduce.padding) == ((1, 1), (1, 1), (0, 0))


# -- max pools without gradient: the maximum of shifted views ----------------------------------------------------------


def run_pool(pool: nn.Module, x: Tensor) -> Tensor:
    """Equal ``pool(x)``; by shifted views, where that is faster: where no gradient is wanted.

    Args:
        pool: Any module.
        x: ``(batch, channels, height, width)``.

    Returns:
        ``(batch, channels, height', width')``.
    """
    if _wants_numbers_alone(x) and is_plain(pool, nn.MaxPool2d) and _is_3x3(pool):
        return pool_by_maxima(pool, x)
    y: Tensor = pool(x)
    return y


def pool_by_maxima(pool: nn.MaxPool2d, x: Tensor) -> Tensor:
    """Pool first over rows, then over columns, by the maximum of shifted views.

    Args:
        pool: A 3x3 max pool with a padding of 1, of any stride.
        x: ``(batch, channels, height, width)``.

    Returns:
        ``(batch, channels, height', width')``.
    """
    vertical, horizontal = pool.stride if isinstance(pool.stride, tuple) else (pool.stride, pool.stride)
    x = functional.pad(x, (1, 1, 1, 1), value=-torch.inf)
    x = torch.maximum(torch.maximum(x[:, :, :-2:vertical], x[:, :, 1:-1:vertical]), x[:, :, 2::vertical])
    return torch.maximum(torch.maximum(x[..., :-2:horizontal], x[..., 1:-1:horizontal]), x[..., 2::horizontal])


def halve(x: Tensor) -> Tensor:
    """Equal a 2x2 max pool; by shifted views, where no gradient is wanted.

    Args:
        x: ``(batch, channels, height, width)``.

    Returns:
        ``(batch, channels, height // 2, width // 2)``.
    """
    if not _wants_numbers_alone(x) or min(x.shape[2:]) < 2:
        return functional.max_pool2d(x, 2)
    x = torch.maximum(x[:, :, :-1:2], x[:, :, 1::2])
    return torch.maximum(x[..., :-1:2], x[..., 1::2])


def _wants_numbers_alone(x: Tensor) -> bool:
    """Whether nothing but numbers is asked for, of maps that torch pools more slowly.

    Torch also writes down where each maximum was, in 8 bytes of new memory for each of 4: for a gradient, which is not
    wanted here. Channels first, shifted views are as slow as that, unless torch goes value by value.
    """
    if x.requires_grad or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return x.shape[1] < FEW_CHANNELS or x.is_contiguous(memory_format=torch.channels_last)


def _is_3x3(pool: nn.MaxPool2d) -> bool:
    """Whether a pool is 3x3 with a padding of 1."""
    shape = (pool.kernel_size, pool.padding, pool.dilation)
    return shape == (3, 1, 1) and not (pool.ceil_mode or pool.return_indices)


# -- flatten and dense, of maps laid out channels last: the smaller of map and weight is put in order ------------------


def run_flatten_and_dense(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Equal the layers called one after the other; where they flatten maps that are laid out otherwise, without a copy.

    Args:
        layers: Flatten, dense; others are called as they are.
        x: ``(batch, channels, height, width)``.

    Returns:
        ``(batch, units)``.
    """
    # a compiler is free to arrange memory, and must not be tied to a batch size
    if len(layers) == 2 and not x.is_contiguous() and not torch.compiler.is_compiling():
        flatten, dense = layers
        if is_plain(flatten, nn.Flatten) and is_plain(dense, nn.Linear) and dense.out_features < len(x):
            return flatten_as_laid_out(dense, x)
    for layer in layers:
        x = layer(x)
    return x


def flatten_as_laid_out(dense: nn.Linear, x: Tensor) -> Tensor:
    """Flatten maps in the order of channels last, and put the weight into that order.

    Args:
        dense: Whose weight is for maps flattened in the order of their dimensions.
        x: ``(batch, channels, height, width)``, laid out channels last.

    Returns:
        ``(batch, units)``.
    """
    weight = dense.weight.reshape(-1, *x.shape[1:]).permute(0, 2, 3, 1).flatten(1)
    return functional.linear(x.permute(0, 2, 3, 1).flatten(1), weight, dense.bias)
