"""RNP as the engine sees it: one stage of two learners, the convolutional network and the agent that prunes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.arguments import whole_number
from primenet_lightning.baselines.rnp.backbone import PrunableConvNet
from primenet_lightning.baselines.rnp.decisions import DecisionNetwork, Episode, Reward, Rule, q_loss
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.stages import LearnerOutput, Stage, StageRow
from primenet_lightning.nn.systems.dynamic import Answer, DynamicNetwork
from primenet_lightning.nn.systems.phases import Span, Standing, Timetable
from primenet_lightning.nn.systems.policies import epsilon_greedy

AGENT = "agent"
"""Name of the decision network's loss."""

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


class PruningStage(Stage):
    """The convolutional network, which learns by cross-entropy, and the agent, which learns by Q-learning.

    Each has a loss in every phase; the one that rests gives its own without a graph, so that nothing in it changes.

    Args:
        backbone: The convolutional network.
        agent: Decides how much of it is computed.
        reward: What the agent is rewarded for.
        phases: Of the fit.
        standing: Where the fit is.
    """

    def __init__(
        self,
        backbone: PrunableConvNet,
        agent: DecisionNetwork,
        reward: Reward,
        phases: PruningPhases,
        standing: Standing,
    ) -> None:
        super().__init__()
        self.agent = agent
        self.backbone = backbone  # after the agent: the network's last linear layer is its classifier
        self.reward = reward
        self.phases = phases
        self.standing = standing
        self._timetable = (0, phases.timetable(0))

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Classes."""
        return (self.backbone.classifier.out_features,)

    @property
    def timetable(self) -> Timetable:
        """Of the fit."""
        steps = self.standing.position.steps
        if self._timetable[0] != steps:
            self._timetable = (steps, self.phases.timetable(steps))
        return self._timetable[1]

    @property
    def phase(self) -> str:
        """What is learned now; of a network that nobody trains, the first phase."""
        position = self.standing.position
        return self.timetable.phase(position.step) if position.steps else PRETRAINING

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Two: the convolutional network is the head's."""
        parts: dict[str, nn.Module] = {HEAD: self.backbone, AGENT: self.agent}
        return {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}

    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Run the network with the channels that are chosen, and judge the choice; see `Stage.run_learners`."""
        phase = self.phase
        episode = Episode(self.agent, self._rule(phase, x, share))
        # the network
        with torch.set_grad_enabled(phase != AGENT and torch.is_grad_enabled()):
            logits = self.backbone(x.detach(), episode)
            losses = functional.cross_entropy(at_least_float32(logits), target, reduction="none")
        yield LearnerOutput(HEAD, losses.mean(), logits.detach(), logits.detach())
        # the agent
        losses = losses.detach()
        with torch.set_grad_enabled(phase == AGENT and torch.is_grad_enabled()):
            loss = q_loss(self.agent(episode.states), episode.chosen, losses, self.reward)
        yield LearnerOutput(AGENT, loss)

    def _rule(self, phase: str, x: Tensor, share: Share) -> Rule:
        """How widths are chosen in training."""
        if phase == PRETRAINING:
            return whole
        if phase == BACKBONE:
            return partial(balanced, balance=0.0)
        draws = share.draw(len(x), 2 * self.agent.decisions, x.device)
        epsilon = 1.0
        if phase == AGENT:
            epsilon = self.phases.epsilon(self.timetable, self.standing.position.step)
        return partial(exploring, epsilon=epsilon, draws=draws)

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Run the whole network, without the agent; see `Stage.through`."""
        logits: Tensor = self.backbone(x)
        return logits


def whole(values: Tensor, decision: int) -> Tensor:
    """Choose all groups.

    Args:
        values: Q-values, ``(batch, groups)``.
        decision: Not looked at.

    Returns:
        Actions from 0, int64 ``(batch,)``.
    """
    return torch.full((len(values),), values.shape[1] - 1, device=values.device)


def exploring(values: Tensor, decision: int, epsilon: float, draws: Tensor) -> Tensor:
    """Choose by the values, or at random.

    Args:
        values: Q-values, ``(batch, groups)``.
        decision: From 0.
        epsilon: How often at random.
        draws: Uniform, ``(batch, 2 * decisions)``.

    Returns:
        Actions from 0, int64 ``(batch,)``.
    """
    return epsilon_greedy(values, epsilon, draws[:, 2 * decision : 2 * decision + 2])


def balanced(values: Tensor, decision: int, balance: float) -> Tensor:
    r"""Choose the best, :math:`\arg\max_a Q(a) + \delta (a - 1)`.

    Args:
        values: Q-values, ``(batch, groups)``.
        decision: Not looked at.
        balance: Delta: below 0 fewer groups are computed, above 0 more.

    Returns:
        Actions from 0, int64 ``(batch,)``.
    """
    return (values + balance * torch.arange(values.shape[1], device=values.device)).argmax(1)


class PruningNetwork(DynamicNetwork):
    """A convolutional network that computes for each image as many channels as an agent finds that it needs.

    Args:
        backbone: The convolutional network.
        in_shape: Of its images.
        reward: What the agent is rewarded for.
        phases: Of the fit.
        balance: Delta, see `balanced`; may be set at any time.

    Example:
        >>> from primenet_lightning.nn.systems.phases import Position
        >>> network = PruningNetwork(PrunableConvNet((1, 8, 8), 10, (8, 16), (1,)), (1, 8, 8))
        >>> network.position = Position(step=80, steps=100)
        >>> network.balance = -100.0  # as little as there is
        >>> answer = network.classify(torch.zeros(2, 1, 8, 8))
        >>> answer.multiply_adds.tolist(), answer.measures["channels/conv2"].tolist()
        ([34600.0, 34600.0], [0.25, 0.25])
    """

    def __init__(
        self,
        backbone: PrunableConvNet,
        in_shape: tuple[int, ...],
        reward: Reward | None = None,
        phases: PruningPhases | None = None,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        self._in_shape = in_shape
        self.balance = balance
        agent = DecisionNetwork(backbone.widths[:-1], backbone.groups)
        self.stage = PruningStage(backbone, agent, reward or Reward(), phases or PruningPhases(), Standing())

    @property
    def backbone(self) -> PrunableConvNet:
        """The convolutional network."""
        return self.stage.backbone

    @property
    def agent(self) -> DecisionNetwork:
        """Decides how much of it is computed."""
        return self.stage.agent

    @property
    def standing(self) -> Standing:
        """What keeps its position in a fit."""
        return self.stage.standing

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        return self._in_shape

    @property
    def stages(self) -> Sequence[Stage]:
        """The one stage."""
        return StageRow([self.stage])

    @property
    def loss_names(self) -> list[str]:
        """Two."""
        return [HEAD, AGENT]

    @property
    def phase(self) -> str:
        """What is learned now."""
        return self.stage.phase

    @property
    def decides(self) -> bool:
        """Whether the agent has begun to learn."""
        return self.phase in (AGENT, BACKBONE)

    @property
    def measure_names(self) -> list[str]:
        """Of each layer but the first, the share of channels computed, and how often how many groups were."""
        names: list[str] = []
        for layer in range(2, self.backbone.layers + 1):
            names.append(f"channels/conv{layer}")
            names += [f"groups/conv{layer}/{groups}" for groups in range(1, self.backbone.groups + 1)]
        return names

    @torch.no_grad()
    def classify(self, x: Tensor) -> Answer:
        """Classify images, computing the channels that the agent chooses; all before it has begun to learn."""
        if not self.decides:
            chosen = torch.full((len(x), self.backbone.layers), self.backbone.groups, device=x.device)
            return Answer(self.backbone(x), self.multiply_adds(chosen, decided=False), self._measures(chosen))
        episode = Episode(self.agent, partial(balanced, balance=self.balance))
        logits, chosen = self.backbone.compute(x, episode)
        return Answer(logits, self.multiply_adds(chosen), self._measures(chosen))

    def multiply_adds(self, chosen: Tensor, decided: bool = True) -> Tensor:
        """Compute what images cost, from the groups computed.

        Args:
            chosen: Groups from 1, int64 ``(batch, layers)``.
            decided: Whether the agent decided, which costs something, too.

        Returns:
            Multiply-adds, float64 ``(batch,)``.
        """
        cost = self.backbone.convolution_cost(chosen) + self.backbone.classifier_cost(chosen)
        return cost + self.agent.multiply_adds if decided else cost

    def _measures(self, chosen: Tensor) -> dict[str, Tensor]:
        measures: dict[str, Tensor] = {}
        for layer in range(2, self.backbone.layers + 1):
            groups = chosen[:, layer - 1]
            measures[f"channels/conv{layer}"] = groups / self.backbone.groups
            for count in range(1, self.backbone.groups + 1):
                measures[f"groups/conv{layer}/{count}"] = (groups == count).float()
        return measures
