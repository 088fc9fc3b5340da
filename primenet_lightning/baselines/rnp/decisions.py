"""The decision network of RNP, how it acts, and what it is rewarded for."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.nn.layers import at_least_float32, autocast_off
from primenet_lightning.nn.systems.policies import epsilon_greedy, q_learning_targets


class DecisionNetwork(nn.Module):
    """Tells what each number of groups is worth, layer by layer, from the pooled map that enters the layer.

    An encoder for each layer, then one GRU cell and one decoder for all; what the cell remembers is carried from layer
    to layer. The values are linear, since returns are negative.

    Args:
        channels: Of the map that enters each layer to be decided on.
        groups: Actions: how many groups of channels may be computed.
        width: Of encoders and cell.

    Example:
        >>> agent = DecisionNetwork((8, 32, 32), groups=4)
        >>> values = agent([torch.zeros(2, 8), torch.zeros(2, 32), torch.zeros(2, 32)])
        >>> len(values), values[0].shape, agent.multiply_adds
        (3, torch.Size([2, 4]), 79104)
    """

    def __init__(self, channels: Sequence[int], groups: int = 4, width: int = 64) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.groups = groups
        self.width = width
        self.encoders = nn.ModuleList(nn.Linear(count, width) for count in channels)
        self.cell = nn.GRUCell(width, width)
        self.decoder = nn.Linear(width, groups)

    @property
    def decisions(self) -> int:
        """How many decisions an image takes."""
        return len(self.channels)

    @property
    def multiply_adds(self) -> int:
        """Of all decisions on an image."""
        a_decision = 3 * 2 * self.width**2 + self.width * self.groups
        return sum(self.channels) * self.width + self.decisions * a_decision

    def decide(self, decision: int, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Value the actions of one decision.

        Args:
            decision: From 0.
            state: The pooled map, ``(batch, channels)``.
            memory: Of the decision before, ``(batch, width)``; None at the first.

        Returns:
            Q-values, ``(batch, groups)``, and the memory, ``(batch, width)``.
        """
        # near -5 numbers of bfloat16 are 0.03 apart, and the penalty of a group is 0.1
        with autocast_off(state):
            encoder = self.encoders[decision]
            memory = self.cell(encoder(state.to(self.decoder.weight.dtype)).relu(), memory)
            return at_least_float32(self.decoder(memory)), memory

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Value the actions of all decisions of episodes that are over.

        Args:
            states: Pooled maps, ``(batch, channels)``, one a decision.

        Returns:
            Q-values, ``(batch, groups)``, one a decision.
        """
        values: list[Tensor] = []
        memory: Tensor | None = None
        for decision, state in enumerate(states):
            value, memory = self.decide(decision, state, memory)
            values.append(value)
        return values


Rule = Callable[[Tensor, int], Tensor]
"""From Q-values, ``(batch, groups)``, and the decision's number to actions from 0, int64 ``(batch,)``."""


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


def check_balance(balance: float) -> float:
    """Refuse a balance that no values could be weighed by.

    Args:
        balance: Delta.

    Returns:
        The same.

    Raises:
        ValueError: If it is infinite or no number.
    """
    if not math.isfinite(balance):
        raise ValueError(f"balance={balance} must be a number; -1000 computes the least, and 1000 all")
    return balance


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


class Episode:
    """The agent acting on a batch, image by image and layer by layer; without gradients.

    Args:
        agent: Which sees of a layer only what enters it.
        rule: Chooses by the agent's values, ``(batch, groups)``.

    Attributes:
        states: What the agent saw, ``(batch, channels)`` a decision.
        chosen: What it chose, groups from 1, int64 ``(batch,)`` a decision.
    """

    def __init__(self, agent: DecisionNetwork, rule: Rule) -> None:
        self.agent = agent
        self.rule = rule
        self.states: list[Tensor] = []
        self.chosen: list[Tensor] = []
        self._memory: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Decide on the next layer.

        Args:
            x: The map that enters it, ``(batch, channels, height, width)``.

        Returns:
            Groups to compute, from 1, int64 ``(batch,)``.
        """
        decision = len(self.states)
        state = x.detach().mean((2, 3))
        values, self._memory = self.agent.decide(decision, state, self._memory)
        chosen = self.rule(values, decision) + 1
        self.states.append(state)
        self.chosen.append(chosen)
        return chosen


class Reward(NamedTuple):
    """What decisions are rewarded by.

    Attributes:
        penalty: p, below 0: of each group computed after the first.
        loss_weight: Alpha, of the image's own cross-entropy; the product is clipped at alpha.
        discount: Gamma.

    Example:
        >>> chosen, losses = [torch.tensor([4]), torch.tensor([1])], torch.tensor([0.25])
        >>> Reward(penalty=-0.5, loss_weight=2.0).of(chosen, losses)
        [tensor([-1.5000]), tensor([-0.5000])]
    """

    penalty: float = -0.1
    loss_weight: float = 10.0
    discount: float = 1.0

    def of(self, chosen: Sequence[Tensor], losses: Tensor) -> list[Tensor]:
        r"""Reward decisions: :math:`(a_t - 1) p`, and at the last one also :math:`-\alpha L`.

        Args:
            chosen: Groups from 1, int64 ``(batch,)``, one a decision.
            losses: Cross-entropy of each image, ``(batch,)``.

        Returns:
            ``(batch,)``, one a decision.
        """
        rewards: list[Tensor] = [(groups - 1) * self.penalty for groups in chosen]
        rewards[-1] = rewards[-1] - (self.loss_weight * losses).clamp(max=self.loss_weight)
        return rewards


def q_loss(values: Sequence[Tensor], chosen: Sequence[Tensor], losses: Tensor, reward: Reward) -> Tensor:
    """Compute the loss of the agent: how far its values are from Q-learning's targets.

    Args:
        values: Q-values, ``(batch, groups)``, one a decision.
        chosen: Groups from 1, int64 ``(batch,)``, one a decision.
        losses: Cross-entropy of each image, ``(batch,)``.
        reward: What decisions are rewarded by.

    Returns:
        The mean square over images and decisions, a scalar.
    """
    targets = q_learning_targets(reward.of(chosen, losses.detach()), values[1:], reward.discount)
    actions = torch.stack(list(chosen), dim=1) - 1
    taken = torch.stack(list(values), dim=1).gather(2, actions[:, :, None])[:, :, 0]
    return (targets - taken).square().mean()
