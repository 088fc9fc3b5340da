"""The phases of RNP's fit."""

from dataclasses import dataclass

from primenet_lightning.arguments import whole_number
from primenet_lightning.nn.systems.phases import Span, Timetable

AGENT = "agent"
"""Name of the decision network's loss, and of the phase in which it learns."""

PRETRAINING, RANDOM_PRUNING, BACKBONE = "pretraining", "random_pruning", "backbone"
"""Phases beside the agent's: the network learns whole, at random widths, and at the widths that the agent chooses."""


@dataclass(frozen=True)
class PruningPhases:
    """How a fit is divided.

    Attributes:
        pretraining: Share of it in which the network learns whole.
        random_pruning: Share in which it learns with widths at random.
        rounds: What is left is divided into so many rounds, in which first the agent learns and then the network; into
            fewer where a round would have less than two steps.
        agent_share: The agent's share of a round.
        last_epsilon: At the last of the agent's steps; it falls from 1 at the first, linearly.

    Raises:
        ValueError: If a share is not within 0 and 1, nothing is left for the rounds, or there is no round.

    Example:
        >>> table = PruningPhases(0.2, 0.3, rounds=1, agent_share=0.6).timetable(10)
        >>> [table.phase(step) for step in (1, 2, 4, 5, 7, 8)]
        ['pretraining', 'random_pruning', 'random_pruning', 'agent', 'agent', 'backbone']
    """

    pretraining: float = 0.2
    random_pruning: float = 0.3
    rounds: int = 8
    agent_share: float = 0.7
    last_epsilon: float = 0.1

    def __post_init__(self) -> None:
        for name in ("pretraining", "random_pruning", "last_epsilon"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must be within 0 and 1")
        if not 0 < self.agent_share < 1:
            raise ValueError(f"agent_share={self.agent_share} must be between 0 and 1, so that both learn in a round")
        whole_number(1, rounds=self.rounds)
        if self.pretraining + self.random_pruning >= 1:
            raise ValueError(
                f"pretraining={self.pretraining} and random_pruning={self.random_pruning} leave nothing of the fit for "
                "the agent; give shares whose sum is below 1"
            )

    def timetable(self, steps: int) -> Timetable:
        """Lay the phases out over a fit.

        Args:
            steps: Optimizer steps.

        Returns:
            The timetable.
        """
        rest = 1 - self.pretraining - self.random_pruning
        shares = {PRETRAINING: self.pretraining, RANDOM_PRUNING: self.random_pruning, "rounds": rest}
        *spans, left = Timetable.of_shares(shares, steps).spans
        rounds = max(min(self.rounds, left.length // 2), 1)
        for number in range(rounds):
            start = left.start + left.length * number // rounds
            stop = left.start + left.length * (number + 1) // rounds
            change = start + max(round(self.agent_share * (stop - start)), 1)
            change = max(min(change, stop - 1), start + 1)
            spans += [Span(AGENT, start, change), Span(BACKBONE, change, max(stop, change))]
        return Timetable(tuple(spans))

    def epsilon(self, timetable: Timetable, step: int) -> float:
        """Tell how often the agent acts at random.

        Args:
            timetable: Of the fit.
            step: One of the agent's.

        Returns:
            A probability.
        """
        last = sum(span.length for span in timetable.spans if span.phase == AGENT) - 1
        done = min(timetable.done(AGENT, step), last)
        return 1.0 if last < 1 else 1 + (self.last_epsilon - 1) * done / last
