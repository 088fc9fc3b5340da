"""DT-RAM as the engine sees it: one stage of four learners, each with a loss of its own."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.arguments import whole_number
from primenet_lightning.baselines.dt_ram.recurrent import RecurrentAttention, StopPolicy
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.stages import LearnerOutput
from primenet_lightning.nn.systems.dynamic import PhasedStage
from primenet_lightning.nn.systems.phases import Standing, Timetable
from primenet_lightning.nn.systems.policies import (
    expected_reward,
    gaussian_log_probability,
    normal_of,
    reinforce_loss,
    sample_stops,
    stopping_distribution,
    stops_log_probability,
)

LOCATOR, BASELINE, STOP = "locator", "baseline", "stop"
"""Names of the losses beside the head's."""

ATTENTION, STOPPING = "attention", "stopping"
"""Phases: RAM learns; then it is frozen but for its classifier, and the stop policy learns."""

Gradient = Literal["expected", "sampled"]
"""How the stop policy learns: by the exact expectation over all steps, or by REINFORCE on a sample, as in the paper."""


@dataclass(frozen=True)
class AttentionOptions:
    """How a network with attention learns.

    Attributes:
        steps: Most glimpses.
        deviation: Standard deviation of locations around the locator's mean, in training.
        every_step: Whether cross-entropy is the mean over steps 2 to the last, or that of the last step alone.
        stop_share: Share of the fit, its end, in which the stop policy learns; 0 is RAM alone, which never stops.
        stop_gradient: How it learns.
        discount: Gamma: being right at step n is worth gamma^n.

    Raises:
        ValueError: If one is impossible.
    """

    steps: int = 7
    deviation: float = 0.22
    every_step: bool = False
    stop_share: float = 0.35
    stop_gradient: Gradient = "expected"
    discount: float = 0.98

    def __post_init__(self) -> None:
        whole_number(2, steps=self.steps)
        if not 0 < self.deviation < math.inf:
            raise ValueError(
                f"deviation={self.deviation} must be finite and above 0, or the locator tries nothing; the paper's is "
                "0.22"
            )
        if not 0 <= self.stop_share < 1:
            raise ValueError(
                f"stop_share={self.stop_share} must be at least 0 and below 1, so that RAM learns before it is stopped"
            )
        if self.stop_gradient not in get_args(Gradient):
            raise ValueError(f"stop_gradient={self.stop_gradient!r} is unknown; use 'expected' or 'sampled'")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount={self.discount} must be above 0 and at most 1")

    def timetable(self, steps: int) -> Timetable:
        """Lay the phases out over a fit.

        Args:
            steps: Optimizer steps.

        Returns:
            The timetable.
        """
        shares = {ATTENTION: 1 - self.stop_share}
        if self.stop_share > 0:
            shares[STOPPING] = self.stop_share
        return Timetable.of_shares(shares, steps)


class Looks(NamedTuple):
    """What a network with attention made of images, step by step.

    Attributes:
        hidden: Of the core, ``(batch, steps, width)``.
        log_probabilities: Of all locations that were sampled, ``(batch,)``.
    """

    hidden: Tensor
    log_probabilities: Tensor


class AttentionStage(PhasedStage):
    """RAM and its stop policy.

    The head's loss trains glimpses, core and classifier; the locator and the stop policy have REINFORCE's, or the
    expectation; the baseline, one number, the square of its distance from the reward. The core gets no gradient from
    policies, and they none from cross-entropy. Who rests has a loss of 0.

    Args:
        ram: The recurrent network.
        policy: Says when to stop.
        options: How they learn.
        standing: Where the fit is.
    """

    def __init__(
        self, ram: RecurrentAttention, policy: StopPolicy, options: AttentionOptions, standing: Standing
    ) -> None:
        super().__init__()
        self.policy = policy
        self.ram = ram  # after the policy: the network's last linear layer is its classifier
        self.baseline = nn.Parameter(torch.zeros(1))
        self.options = options
        self.standing = standing

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Classes."""
        return (self.ram.classifier.out_features,)

    def timetable_of(self, steps: int) -> Timetable:
        """As `AttentionOptions.timetable`."""
        return self.options.timetable(steps)

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Four: what is neither the locator's, the policy's nor the baseline is the head's."""
        locator = list(self.ram.locator.parameters())
        head = [p for p in self.ram.parameters() if all(p is not other for other in locator)]
        parts = {HEAD: head, LOCATOR: locator, BASELINE: [self.baseline], STOP: list(self.policy.parameters())}
        return {name: [p for p in parameters if p.requires_grad] for name, parameters in parts.items()}

    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Look at the images, and judge answers and decisions; see `Stage.run_learners`."""
        if self.phase == ATTENTION:
            yield from self._learn_to_look(x.detach(), target, share)
        else:
            yield from self._learn_to_stop(x.detach(), target, share)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _learn_to_look(self, x: Tensor, target: Tensor, share: Share) -> Iterator[LearnerOutput]:
        draws = share.draw(len(x), 2 * self.options.steps, x.device)
        looks = self.look(x, normal_of(draws) * self.options.deviation)
        # the answer
        judged = looks.hidden[:, 1:] if self.options.every_step else looks.hidden[:, -1:]
        answers = self.ram.classifier(judged)
        loss = cross_entropy(answers.flatten(0, 1), target.repeat_interleave(answers.shape[1]))
        logits = answers[:, -1].detach()
        yield LearnerOutput(HEAD, loss, logits, logits)
        # the locations
        rewards = (logits.argmax(1) == target).float()
        yield LearnerOutput(LOCATOR, reinforce_loss(looks.log_probabilities, rewards, self.baseline))
        yield LearnerOutput(BASELINE, (self.baseline - rewards).square().mean())
        yield LearnerOutput(STOP, rewards.new_zeros(()))

    def look(self, x: Tensor, noise: Tensor | None = None) -> Looks:
        """Take all glimpses.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            noise: Added to the locator's means, ``(batch, 2 * steps)``; None looks at the means.

        Returns:
            What was seen. The log-probabilities have a gradient for the locator alone, the rest none for it.
        """
        hidden: Tensor | None = None
        states: list[Tensor] = []
        log_probabilities = torch.zeros(len(x), device=x.device)
        for step in range(self.options.steps):
            means = self.ram.aim(x, hidden)
            sample = means
            if means is not None and noise is not None:
                sample = means.detach() + noise[:, 2 * step : 2 * step + 2]
                log_probability = gaussian_log_probability(sample, means, self.options.deviation)
                log_probabilities = log_probabilities + log_probability
            hidden = self.ram.look(x, self.ram.place(x, sample), hidden)
            states.append(hidden)
        return Looks(torch.stack(states, dim=1), log_probabilities)

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _learn_to_stop(self, x: Tensor, target: Tensor, share: Share) -> Iterator[LearnerOutput]:
        with torch.no_grad():
            hidden = self.look(x).hidden
        answers = at_least_float32(self.ram.classifier(hidden))
        losses = functional.cross_entropy(
            answers.transpose(1, 2), target[:, None].expand(-1, answers.shape[1]), reduction="none"
        )
        rewards = self.rewards(answers, target)
        stop_logits = self.policy(hidden[:, :-1])
        if self.options.stop_gradient == "sampled":
            draws = share.draw(len(x), self.options.steps - 1, x.device)
            taken = sample_stops(stop_logits.sigmoid().detach(), draws)
            won = rewards.gather(1, taken[:, None])[:, 0]
            weights = functional.one_hot(taken, self.options.steps).to(losses.dtype)
            stop_loss = reinforce_loss(stops_log_probability(stop_logits, taken), won, self.baseline)
        else:
            weights = stopping_distribution(stop_logits.sigmoid()).detach()
            expected = expected_reward(stop_logits.sigmoid(), rewards)
            taken, won, stop_loss = weights.argmax(1), expected.detach(), -expected.mean()
        # the answer where it stopped
        places = torch.arange(len(x), device=x.device)
        logits = answers[places, taken].detach()
        yield LearnerOutput(HEAD, (weights * losses).sum(1).mean(), logits, logits)
        yield LearnerOutput(LOCATOR, won.new_zeros(()))
        yield LearnerOutput(BASELINE, (self.baseline - won).square().mean())
        yield LearnerOutput(STOP, stop_loss)

    def rewards(self, answers: Tensor, target: Tensor) -> Tensor:
        r"""Reward stopping at each step: :math:`\gamma^n` where the answer is right, else 0.

        Args:
            answers: Logits, ``(batch, steps, classes)``.
            target: Class indices, ``(batch,)``.

        Returns:
            ``(batch, steps)``, without gradient.
        """
        right = answers.detach().argmax(2) == target[:, None]
        steps = torch.arange(1, answers.shape[1] + 1, device=answers.device)
        return right * self.options.discount**steps

    # -- without labels ------------------------------------------------------------------------------------------------

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Take all glimpses, where the locator looks on average, and answer; see `Stage.through`."""
        logits: Tensor = self.ram.classifier(self.look(x).hidden[:, -1])
        return logits
