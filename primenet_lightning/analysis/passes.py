"""A split through a network, some images at a time."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from primenet_lightning.arguments import at_least


class _Split(Protocol):
    """Images and labels that are gathered a batch at once, such as an `ImageTensors` or a ``TensorDataset``."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Tensor, /) -> tuple[Tensor, Tensor]: ...


def in_batches(split: _Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Take a split apart, in its order.

    Args:
        split: Images and labels in memory.
        size: Images at a time; the last batch has what is left.

    Yields:
        Images, ``(batch, channels, height, width)``, as they are kept, and their class indices, ``(batch,)``.

    Raises:
        ValueError: If ``size`` is below 1.

    Example:
        >>> split = torch.utils.data.TensorDataset(torch.zeros(5, 1, 2, 2), torch.arange(5))
        >>> [labels.tolist() for _, labels in in_batches(split, size=2)]
        [[0, 1], [2, 3], [4]]
    """
    at_least(1, size=size)
    for places in torch.split(torch.arange(len(split)), size):
        yield split[places]
