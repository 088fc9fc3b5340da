"""A network with several exits, asked exit by exit: of an image that has left nothing more is computed."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.exits.thresholds import check_thresholds, confidences

State = tuple[Tensor, ...]
"""What the rest of a network needs of the images; the first dimension of each tensor is the batch."""


class ExitNetwork(Protocol):
    """What functions on exits ask of a network."""

    @property
    def num_exits(self) -> int:
        """How many exits there are."""
        ...

    def advance(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Compute what lies between the exit before and this one, and this exit's answer.

        Args:
            exit_index: Of this exit, from 0.
            state: Of the exit before, ``(batch, ...)`` each; of the first, the images alone.

        Returns:
            The state, ``(batch, ...)`` each, and the logits, ``(batch, classes)``.
        """
        ...


def answers(network: ExitNetwork, x: Tensor) -> Iterator[Tensor]:
    """Answer exit by exit, computing no more than has been asked for.

    Args:
        network: With several exits.
        x: Images, ``(batch, channels, height, width)``.

    Yields:
        Logits, ``(batch, classes)``, of each exit, the first one first.
    """
    state: State = (x,)
    for index in range(network.num_exits):
        state, logits = network.advance(index, state)
        yield logits


class ExitModule(nn.Module, ABC, metaclass=CheckedArguments):
    """A module with several exits, which answers at all of them when it is called."""

    @property
    @abstractmethod
    def num_exits(self) -> int:
        """How many exits there are."""

    @abstractmethod
    def advance(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Compute what lies between the exit before and this one, and this exit's answer.

        Args:
            exit_index: Of this exit, from 0.
            state: Of the exit before, ``(batch, ...)`` each; of the first, the images alone.

        Returns:
            The state, ``(batch, ...)`` each, and the logits, ``(batch, classes)``.
        """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Answer at every exit.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``, of each exit, the first one first.
        """
        return tuple(answers(self, x))


def classify(network: ExitNetwork, x: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Let each image leave at the first exit that is sure enough, and compute the rest for those that stay.

    In evaluation mode; in training mode the batch norms would see other images at each exit.

    Args:
        network: With several exits.
        x: Images, ``(batch, channels, height, width)``.
        thresholds: One an exit: an image leaves where its largest softmax probability reaches this. At the last exit
            all leave.

    Returns:
        Logits, ``(batch, classes)``, and the index of the exit that gave them, int64 ``(batch,)``.

    Raises:
        ValueError: If there are not as many thresholds as exits.

    Example:
        >>> class Scaled:
        ...     num_exits = 2
        ...     def advance(self, exit_index, state):
        ...         (x,) = state
        ...         return (x,), 10.0**exit_index * x
        >>> classify(Scaled(), torch.tensor([[0.1, 0.0], [4.0, 0.0]]), thresholds=[0.9, 0.9])
        (tensor([[1., 0.],
                [4., 0.]]), tensor([1, 0]))
    """
    check_thresholds(thresholds, network.num_exits)
    state: State = (x,)
    rows = torch.arange(len(x), device=x.device)
    answered: list[Tensor] = []
    order: list[Tensor] = []
    taken: list[Tensor] = []
    for index in range(network.num_exits):
        state, logits = network.advance(index, state)
        leaves = torch.ones_like(rows, dtype=torch.bool)
        if index < network.num_exits - 1:
            leaves = confidences(logits).double() >= thresholds[index]
        answered.append(logits[leaves])
        order.append(rows[leaves])
        taken.append(torch.full_like(order[-1], index))
        rows = rows[~leaves]
        if len(rows) == 0:
            break
        state = tuple(part[~leaves] for part in state)
    places = torch.cat(order).argsort()
    return torch.cat(answered)[places], torch.cat(taken)[places]
