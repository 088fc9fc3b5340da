"""What layers share: their initialisation, the precision they compute in, a trial run, and what fits them."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def glorot_(module: nn.Module) -> nn.Module:
    """Initialise every convolution and dense layer with Glorot's uniform distribution, biases with zero.

    This is the initialisation of the authors' code (Keras' default).

    Args:
        module: Changed in place.

    Returns:
        The same module.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def at_least_float32(x: Tensor) -> Tensor:
    """Give numbers that losses may be computed from: float16 and bfloat16 become float32.

    Args:
        x: Of any shape and floating dtype.

    Returns:
        Of the same shape; the tensor itself if it is float32 or float64.
    """
    return x if x.dtype.itemsize >= 4 else x.float()


def autocast_off(x: Tensor) -> AbstractContextManager[Any]:
    """Compute in the tensors' own precision, also where autocast is on.

    Args:
        x: Of any shape, on the device whose autocast is meant.

    Returns:
        A context.
    """
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def random_numbers_kept(like: Tensor) -> AbstractContextManager[None]:
    """Leave the random numbers of the CPU, and of the GPU that a tensor is on, as they were.

    Args:
        like: Of any shape.

    Returns:
        A context, after which both go on as if nothing had been drawn.
    """
    kept: AbstractContextManager[None] = torch.random.fork_rng(devices=[like.device] if like.is_cuda else [])
    return kept


@contextmanager
def trial_run(module: nn.Module) -> Iterator[None]:
    """Run a module on blank images without a trace: in evaluation mode, each part's own mode restored after.

    Args:
        module: All of whose parts are switched to evaluation.

    Yields:
        Nothing.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def blank_input(module: nn.Module, in_shape: tuple[int, ...]) -> Tensor:
    """Make two blank images for a trial run.

    Args:
        module: Whose device and precision they get.
        in_shape: Of one image, or of one map.

    Returns:
        Zeros, ``(2, *in_shape)``.

    Example:
        >>> blank_input(nn.Linear(4, 1).double(), (4,)).dtype
        torch.float64
    """
    like = next(module.parameters(), torch.empty(0))
    return torch.zeros(2, *in_shape, device=like.device, dtype=like.dtype)


def check_input(x: Tensor, in_shape: tuple[int, ...], built: str) -> None:
    """Refuse images of another shape or of integers.

    Args:
        x: What is to be ``(batch, *in_shape)``.
        in_shape: Channels, height and width that a part was built for.
        built: What that part is called: ``"block"``.

    Raises:
        ValueError: If it has another shape, or is not floating point.

    Example:
        >>> check_input(torch.zeros(2, 3, 8, 8), (1, 8, 8), "block")
        Traceback (most recent call last):
        ...
        ValueError: x has shape (2, 3, 8, 8), but this block was built for (batch, 1, 8, 8)
    """
    if x.dim() != 1 + len(in_shape) or tuple(x.shape[1:]) != in_shape:
        expected = ", ".join(map(str, in_shape))
        raise ValueError(f"x has shape {tuple(x.shape)}, but this {built} was built for (batch, {expected})")
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}; normalise images to floating point first")


def size_after(stride: int | tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Tell the size of the maps of a layer whose padding is half its kernel.

    Args:
        stride: Of the layer; for height and width alike, or for each.
        size: Height and width of its input, in pixels.

    Returns:
        Height and width of its maps, in pixels.

    Example:
        >>> size_after(2, (28, 9)), size_after((1, 2), (28, 9))
        ((14, 5), (28, 5))
    """
    vertical, horizontal = (stride, stride) if isinstance(stride, int) else stride
    return math.ceil(size[0] / vertical), math.ceil(size[1] / horizontal)
