"""Where a training of several phases stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Position(NamedTuple):
    """How far a fit is.

    Attributes:
        step: Optimizer steps done.
        steps: Of the whole fit; 0 where nobody knows.
    """

    step: int = 0
    steps: int = 0


class Standing(nn.Module):
    """Keeps a network's position in its fit, in its checkpoints too.

    Example:
        >>> standing = Standing()
        >>> standing.position = Position(30, 100)
        >>> restored = Standing()
        >>> _ = restored.load_state_dict(standing.state_dict())
        >>> restored.position
        Position(step=30, steps=100)
    """

    def __init__(self) -> None:
        super().__init__()
        self.position = Position()

    def get_extra_state(self) -> Tensor:
        """Give the position to a checkpoint, int64 ``(2,)``."""
        return torch.tensor(self.position, dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the position from a checkpoint.

        Args:
            state: Int64 ``(2,)``.
        """
        step, steps = state.tolist()
        self.position = Position(step, steps)


class Span(NamedTuple):
    """Part of a fit.

    Attributes:
        phase: Its name.
        start: The first step.
        stop: The step after its last one.
    """

    phase: str
    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many steps."""
        return self.stop - self.start


@dataclass(frozen=True)
class Timetable:
    """The phases of a fit, one after the other.

    Attributes:
        spans: First to last; what comes after the last belongs to it.

    Example:
        >>> table = Timetable.of_shares({"warm-up": 0.25, "rest": 0.75}, steps=8)
        >>> [table.phase(step) for step in (0, 1, 2, 7, 100)]
        ['warm-up', 'warm-up', 'rest', 'rest', 'rest']
        >>> table.spans[1].length
        6
    """

    spans: Sequence[Span]

    @classmethod
    def of_shares(cls, shares: dict[str, float], steps: int, start: int = 0) -> "Timetable":
        """Lay phases out over a fit.

        Args:
            shares: Of the steps, by phase; together 1.
            steps: How many there are.
            start: The first step.

        Returns:
            The timetable.
        """
        spans: list[Span] = []
        share_so_far = 0.0
        begins = start
        for phase, share in shares.items():
            share_so_far += share
            ends = start + round(share_so_far * steps)
            spans.append(Span(phase, begins, ends))
            begins = ends
        return cls(tuple(spans))

    def span(self, step: int) -> Span:
        """Tell in which part of the fit a step is.

        Args:
            step: From 0.

        Returns:
            The part; the last one for all that comes later.
        """
        for span in self.spans:
            if step < span.stop:
                return span
        return self.spans[-1]

    def phase(self, step: int) -> str:
        """Tell in which phase a step is.

        Args:
            step: From 0.

        Returns:
            The phase's name.
        """
        return self.span(step).phase

    def done(self, phase: str, step: int) -> int:
        """Count the steps of a phase before a step.

        Args:
            phase: Its name.
            step: From 0.

        Returns:
            How many.
        """
        count = 0
        for span in self.spans:
            if span.phase == phase:
                count += min(max(step - span.start, 0), span.length)
        return count
