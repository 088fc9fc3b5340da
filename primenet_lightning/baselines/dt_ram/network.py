"""DT-RAM's network: it looks at an image until it has seen enough."""

import torch
from torch import Tensor

from primenet_lightning.baselines.dt_ram.recurrent import RecurrentAttention, StopPolicy
from primenet_lightning.baselines.dt_ram.stage import (
    BASELINE,
    LOCATOR,
    STOP,
    STOPPING,
    AttentionOptions,
    AttentionStage,
)
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.systems.dynamic import Answer, DynamicNetwork
from primenet_lightning.nn.systems.phases import Standing


class AttentionNetwork(DynamicNetwork):
    """A recurrent network that takes glimpses, with a policy that says after each whether it was the last.

    Args:
        ram: The recurrent network.
        in_shape: Of its images.
        options: How it learns.
        threshold: An image's last glimpse is the one after which the probability of stopping is above it; may be set
            at any time.

    Example:
        >>> network = AttentionNetwork(RecurrentAttention((1, 28, 28), 10), (1, 28, 28))
        >>> sum(parameter.numel() for parameter in network.parameters())
        275470
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    stage: AttentionStage

    def __init__(
        self,
        ram: RecurrentAttention,
        in_shape: tuple[int, ...],
        options: AttentionOptions | None = None,
        threshold: float = 0.5,
    ) -> None:
        stage = AttentionStage(ram, StopPolicy(ram.width), options or AttentionOptions(), Standing())
        super().__init__(in_shape, stage)
        self.threshold = threshold

    @property
    def ram(self) -> RecurrentAttention:
        """The recurrent network."""
        return self.stage.ram

    @property
    def policy(self) -> StopPolicy:
        """Says when to stop."""
        return self.stage.policy

    @property
    def steps(self) -> int:
        """Most glimpses."""
        return self.stage.options.steps

    @property
    def loss_names(self) -> list[str]:
        """Four."""
        return [HEAD, LOCATOR, BASELINE, STOP]

    @property
    def decides(self) -> bool:
        """Whether the stop policy has begun to learn, or never will."""
        return self.phase == STOPPING or self.stage.options.stop_share == 0

    @property
    def stops(self) -> bool:
        """Whether answers go by the stop policy."""
        return self.phase == STOPPING

    @property
    def measure_names(self) -> list[str]:
        """Glimpses taken, how often each number of them was, and how far from the centre they were."""
        return ["steps", "gaze_distance", *(f"stopped_at/{step}" for step in range(1, self.steps + 1))]

    @torch.no_grad()
    def classify(self, x: Tensor) -> Answer:
        """Classify images, each by as many glimpses as it needs; all by as many as there are before that is learned."""
        logits = x.new_zeros(len(x), self.ram.classifier.out_features)
        taken = torch.full((len(x),), self.steps, device=x.device)
        distance = x.new_zeros(len(x))
        images = torch.arange(len(x), device=x.device)
        hidden: Tensor | None = None
        for step in range(1, self.steps + 1):
            hidden, location = self.ram.look_on_average(x[images], hidden)
            distance[images] += location.norm(dim=1)
            last = torch.ones_like(images, dtype=torch.bool)
            if step < self.steps:
                last = self._enough(hidden)
            stopped = images[last]
            logits[stopped] = self.ram.classifier(hidden[last]).to(logits.dtype)
            taken[stopped] = step
            images, hidden = images[~last], hidden[~last]
            if not len(images):
                break
        measures = {"steps": taken, "gaze_distance": distance / taken}
        for step in range(1, self.steps + 1):
            measures[f"stopped_at/{step}"] = taken == step
        return Answer(logits, self.multiply_adds(taken), measures)

    def _enough(self, hidden: Tensor) -> Tensor:
        """Whether to stop, ``(batch,)``."""
        if not self.stops:
            return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        probability: Tensor = self.policy(hidden).sigmoid()
        return probability > self.threshold

    def multiply_adds(self, taken: Tensor) -> Tensor:
        """Compute what images cost, from their numbers of glimpses.

        Args:
            taken: From 1, int64 ``(batch,)``.

        Returns:
            Multiply-adds, float64 ``(batch,)``; after the last possible glimpse there is nothing to decide.
        """
        cost = self.ram.first_step_cost + self.ram.classifier_cost + (taken - 1).double() * self.ram.step_cost
        if self.stops:
            cost = cost + taken.clamp(max=self.steps - 1) * self.policy.multiply_adds
        return cost

    @torch.no_grad()
    def unroll(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take all glimpses, and tell what stopping after each would be.

        Args:
            x: ``(batch, *in_shape)``.

        Returns:
            Logits, ``(batch, steps, classes)``, and probabilities of stopping, ``(batch, steps - 1)``.
        """
        hidden = self.stage.look(x).hidden
        return self.ram.classifier(hidden), self.policy(hidden[:, :-1]).sigmoid()
