"""RNP's network: it computes as many of its channels as an image needs."""

from functools import partial

import torch
from torch import Tensor

from primenet_lightning.baselines.rnp.backbone import PrunableConvNet
from primenet_lightning.baselines.rnp.decisions import DecisionNetwork, Episode, Reward, balanced, check_balance
from primenet_lightning.baselines.rnp.phases import AGENT, BACKBONE, PruningPhases
from primenet_lightning.baselines.rnp.stage import PruningStage
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.systems.dynamic import Answer, DynamicNetwork
from primenet_lightning.nn.systems.phases import Standing


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

    stage: PruningStage

    def __init__(
        self,
        backbone: PrunableConvNet,
        in_shape: tuple[int, ...],
        reward: Reward | None = None,
        phases: PruningPhases | None = None,
        balance: float = 0.0,
    ) -> None:
        agent = DecisionNetwork(backbone.widths[:-1], backbone.groups)
        stage = PruningStage(backbone, agent, reward or Reward(), phases or PruningPhases(), Standing())
        super().__init__(in_shape, stage)
        self.balance = check_balance(balance)

    @property
    def backbone(self) -> PrunableConvNet:
        """The convolutional network."""
        return self.stage.backbone

    @property
    def agent(self) -> DecisionNetwork:
        """Decides how much of it is computed."""
        return self.stage.agent

    @property
    def loss_names(self) -> list[str]:
        """Two."""
        return [HEAD, AGENT]

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
