"""Policies in pure torch: Q-learning, REINFORCE with a baseline, and the exact expectation over when to stop."""

from collections.abc import Sequence

import torch
from torch import Tensor

# -- Q-learning --------------------------------------------------------------------------------------------------------


def epsilon_greedy(values: Tensor, epsilon: float, draws: Tensor) -> Tensor:
    """Take the best action, or with a probability any of them.

    Args:
        values: Q-values, ``(batch, actions)``.
        epsilon: Probability of an action at random, which may be the best one, too.
        draws: Uniform in [0, 1), ``(batch, 2)``: whether to take one at random, and which.

    Returns:
        Actions from 0, int64 ``(batch,)``.

    Example:
        >>> values = torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
        >>> epsilon_greedy(values, 0.5, torch.tensor([[0.9, 0.1], [0.2, 0.1]]))
        tensor([1, 0])
    """
    count = values.shape[1]
    at_random = (draws[:, 1] * count).long().clamp_(max=count - 1)  # rounding may bring a draw up to 1
    return torch.where(draws[:, 0] < epsilon, at_random, values.argmax(1))


def q_learning_targets(rewards: Sequence[Tensor], next_values: Sequence[Tensor], discount: float = 1.0) -> Tensor:
    r"""Compute what Q-learning drives the values of the actions taken to.

    :math:`y_t = r_t + \gamma \max_a Q(s_{t+1}, a)`; at the last decision, after which no state follows,
    :math:`y_T = r_T`.

    Args:
        rewards: ``(batch,)`` of each decision.
        next_values: Q-values, ``(batch, actions)``, of each decision but the first.
        discount: Gamma.

    Returns:
        Targets, ``(batch, decisions)``, without gradient.

    Example:
        >>> rewards = [torch.tensor([1.0]), torch.tensor([-2.0])]
        >>> q_learning_targets(rewards, [torch.tensor([[0.5, 0.25]])])
        tensor([[ 1.5000, -2.0000]])
    """
    targets = list(rewards)
    for place, values in enumerate(next_values):
        targets[place] = rewards[place] + discount * values.amax(1)
    return torch.stack(targets, dim=1).detach()


# -- REINFORCE ---------------------------------------------------------------------------------------------------------


def reinforce_loss(log_probabilities: Tensor, rewards: Tensor, baseline: Tensor) -> Tensor:
    r"""Compute the loss whose gradient is that of REINFORCE (Williams, 1992): :math:`-\log \pi\,(R - b)`.

    Args:
        log_probabilities: Of all that a sample has decided, summed over its decisions, ``(batch,)``.
        rewards: ``(batch,)``.
        baseline: A scalar, or ``(batch,)``; neither it nor the rewards get a gradient.

    Returns:
        The mean over the batch, a scalar.

    Example:
        >>> reinforce_loss(torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 0.0]), torch.tensor(0.5))
        tensor(-0.5000)
    """
    return -(log_probabilities * (rewards - baseline).detach()).mean()


def gaussian_log_probability(samples: Tensor, means: Tensor, deviation: float) -> Tensor:
    """Compute the logarithm of a normal density, up to the part that does not depend on the means.

    Args:
        samples: As they were drawn, not clamped, ``(batch, dimensions)``; they get no gradient.
        means: ``(batch, dimensions)``.
        deviation: Standard deviation of each dimension.

    Returns:
        ``(batch,)``.
    """
    return -(samples.detach() - means).square().sum(1) / (2 * deviation**2)


# -- when to stop ------------------------------------------------------------------------------------------------------


def stopping_distribution(stop: Tensor) -> Tensor:
    r"""Compute how probable it is to stop after each step.

    :math:`P(T=t) = s_t \prod_{j<t} (1-s_j)`, and at the last step what is left.

    Args:
        stop: Probabilities of stopping after each step but the last, ``(batch, steps - 1)``.

    Returns:
        ``(batch, steps)``; each row sums to 1.

    Example:
        >>> stopping_distribution(torch.tensor([[0.5, 0.5]]))
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    going_on = (1 - stop).cumprod(1)
    first = torch.ones_like(stop[:, :1]) if stop.shape[1] else stop.new_ones(len(stop), 1)
    reached = torch.cat([first, going_on], dim=1)
    last = torch.ones_like(first)
    return reached * torch.cat([stop, last], dim=1)


def sample_stops(stop: Tensor, draws: Tensor) -> Tensor:
    """Decide after each step whether to stop, and tell after which one that was.

    Args:
        stop: Probabilities of stopping after each step but the last, ``(batch, steps - 1)``.
        draws: Uniform in [0, 1), ``(batch, steps - 1)``.

    Returns:
        Steps from 0, int64 ``(batch,)``.

    Example:
        >>> sample_stops(torch.tensor([[0.3, 0.3], [0.3, 0.3]]), torch.tensor([[0.5, 0.1], [0.9, 0.9]]))
        tensor([1, 2])
    """
    last = stop.new_ones(len(stop), 1, dtype=torch.int64)
    return torch.cat([(draws < stop).long(), last], dim=1).argmax(1)  # the first of them


def stops_log_probability(stop_logits: Tensor, taken: Tensor) -> Tensor:
    """Compute the log-probability of going on at every step before one, and of stopping there.

    Args:
        stop_logits: Of stopping after each step but the last, ``(batch, steps - 1)``.
        taken: Steps from 0 after which it was stopped, int64 ``(batch,)``; at the last one there is no choice.

    Returns:
        ``(batch,)``; decisions after the stop are not in it.

    Example:
        >>> stops_log_probability(torch.zeros(2, 2), torch.tensor([1, 2])).exp()
        tensor([0.2500, 0.2500])
    """
    steps = torch.arange(stop_logits.shape[1], device=taken.device)
    log_stop = torch.nn.functional.logsigmoid(stop_logits)
    log_go_on = torch.nn.functional.logsigmoid(-stop_logits)
    none = torch.zeros_like(log_stop)
    before = torch.where(steps < taken[:, None], log_go_on, none)
    at = torch.where(steps == taken[:, None], log_stop, none)
    return (before + at).sum(1)


def expected_reward(stop: Tensor, rewards: Tensor) -> Tensor:
    r"""Compute the reward to be expected over all steps to stop at: :math:`\sum_t P(T=t) R_t`.

    Its gradient is the mean of what REINFORCE samples, without the variance.

    Args:
        stop: Probabilities of stopping after each step but the last, ``(batch, steps - 1)``.
        rewards: Of stopping at each step, ``(batch, steps)``.

    Returns:
        ``(batch,)``.

    Example:
        >>> expected_reward(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0, 2.0]]))
        tensor([1.])
    """
    return (stopping_distribution(stop) * rewards).sum(1)


# -- random numbers ----------------------------------------------------------------------------------------------------


def normal_of(draws: Tensor) -> Tensor:
    """Turn uniform random numbers into normal ones, by the inverse of the normal distribution.

    Args:
        draws: Uniform in [0, 1), of any shape.

    Returns:
        Of mean 0 and standard deviation 1, of the same shape.

    Example:
        >>> normal_of(torch.tensor([0.5, 0.975]))
        tensor([0.0000, 1.9600])
    """
    smallest = torch.finfo(draws.dtype).eps
    normal: Tensor = torch.special.ndtri(draws.clamp(smallest, 1 - smallest))
    return normal
