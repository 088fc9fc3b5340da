"""RNP as the engine sees it: one stage of two learners, the convolutional network and the agent that prunes it."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.baselines.rnp.backbone import PrunableConvNet
from primenet_lightning.baselines.rnp.decisions import (
    DecisionNetwork,
    Episode,
    Reward,
    Rule,
    balanced,
    exploring,
    q_loss,
    whole,
)
from primenet_lightning.baselines.rnp.phases import AGENT, BACKBONE, PRETRAINING, PruningPhases
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.stages import LearnerOutput
from primenet_lightning.nn.systems.dynamic import PhasedStage
from primenet_lightning.nn.systems.phases import Standing, Timetable


class PruningStage(PhasedStage):
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

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Classes."""
        return (self.backbone.classifier.out_features,)

    def timetable_of(self, steps: int) -> Timetable:
        """As `PruningPhases.timetable`."""
        return self.phases.timetable(steps)

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
