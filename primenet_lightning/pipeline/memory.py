"""A process keeps the memory of its own stages only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.nn.deferring import named_tensors, put_in_place
from primenet_lightning.training.section import Section


def tensors_of_others(section: Section) -> dict[int, Tensor]:
    """Find the parameters and buffers of the stages that other processes run.

    Args:
        section: Of this process.

    Returns:
        The tensors, of any shape ``(...)``, by ``id``.
    """
    own = {id(tensor) for tensor in _tensors(section, here=True)}
    others: dict[int, Tensor] = {}
    for tensor in _tensors(section, here=False):
        if id(tensor) not in own:
            others[id(tensor)] = tensor
    return others


def _tensors(section: Section, here: bool) -> Iterator[Tensor]:
    """Parameters and buffers of the stages of this process, or of all others."""
    own_learners = section.learners()
    for name, parameters in section.network.learners().items():
        if (name in own_learners) == here:
            yield from parameters
    for place, stage in enumerate(section.network.stages):
        is_here = section.begin <= place and (section.end is None or place < section.end)
        if is_here == here:
            yield from stage.parameters()
            yield from stage.buffers()


def free_others(section: Section) -> None:
    """Let go of the memory of stages that other processes run; their parameters keep name, shape and type.

    They are on torch's meta device from now on, where computing with numbers fails at once.

    Args:
        section: Of this process.
    """
    for tensor in tensors_of_others(section).values():
        if tensor.is_meta:
            continue
        tensor.grad = None
        put_in_place(tensor, torch.empty_like(tensor, device="meta"))


@contextmanager
def lent_memory(module: nn.Module) -> Iterator[None]:
    """Give what has no memory some, with made-up numbers, and let go of it afterwards.

    Args:
        module: Some of whose tensors may have none.

    Yields:
        Nothing.
    """
    without = [tensor for _, tensor in named_tensors(module) if tensor.is_meta]
    blanks: list[Tensor] = []
    for tensor in without:
        numbers = torch.zeros_like(tensor, device="cpu")
        if tensor.is_floating_point():
            numbers.normal_(std=0.05)
        blanks.append(put_in_place(tensor, numbers))
    try:
        yield
    finally:
        for tensor, blank in zip(without, blanks, strict=True):
            put_in_place(tensor, blank)


def move(module: nn.Module, device: torch.device) -> None:
    """Move what has memory to a device.

    Args:
        module: Some of whose tensors may have none.
        device: Where to.
    """
    apply: Callable[[Callable[[Tensor], Tensor]], Any] = module._apply
    apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
