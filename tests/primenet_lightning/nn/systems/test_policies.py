"""Policies against enumeration, quadrature and plain loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from primenet_lightning.nn.systems.policies import (
    epsilon_greedy,
    expected_reward,
    gaussian_log_probability,
    normal_of,
    q_learning_targets,
    reinforce_loss,
    sample_stops,
    stopping_distribution,
    stops_log_probability,
)

# -- Q-learning


def test_epsilon_of_one_takes_all_actions_alike_and_zero_the_best():
    values = torch.tensor([[0.0, 1.0, 5.0, 2.0]]).expand(4000, 4)
    counts = epsilon_greedy(values, 1.0, torch.rand(4000, 2)).bincount(minlength=4)
    assert chisquare(counts.numpy()).pvalue > 0.01  # the last action, all channels, included
    assert torch.equal(epsilon_greedy(values, 0.0, torch.rand(4000, 2)), torch.full((4000,), 2))
    assert epsilon_greedy(values[:1], 1.0, torch.tensor([[0.5, 1.0]])).item() == 3  # a draw that was rounded up


def test_targets_are_those_of_a_loop_and_the_last_has_no_bootstrap():
    rewards = [torch.randn(5) for _ in range(3)]
    values = [torch.randn(5, 4, requires_grad=True) for _ in range(2)]
    targets = q_learning_targets(rewards, values, discount=0.9)
    assert not targets.requires_grad
    for image in range(5):
        for decision in range(3):
            expected = rewards[decision][image].item()
            if decision < 2:
                expected += 0.9 * max(values[decision][image].tolist())
            assert targets[image, decision].item() == pytest.approx(expected, abs=1e-6)
    shifted = q_learning_targets(rewards, [value + 10 for value in values], discount=0.9)
    torch.testing.assert_close(shifted - targets, torch.tensor([9.0, 9.0, 0.0]).expand(5, 3))


# -- when to stop


def test_the_law_of_stopping():
    stop = torch.rand(6, 4, dtype=torch.float64)
    distribution = stopping_distribution(stop)
    torch.testing.assert_close(distribution.sum(1), torch.ones(6, dtype=torch.float64))
    for image in range(6):
        left = 1.0
        for step in range(4):
            assert distribution[image, step].item() == pytest.approx(left * stop[image, step].item())
            left *= 1 - stop[image, step].item()
    constant = stopping_distribution(torch.full((1, 4), 0.3, dtype=torch.float64))
    mean = (constant * torch.arange(1, 6)).sum().item()
    assert mean == pytest.approx((1 - 0.7**5) / 0.3) == pytest.approx(2.7731)


def test_sampled_stops_have_that_law():
    stop = torch.tensor([[0.3, 0.6, 0.2]]).expand(4000, 3)
    counts = sample_stops(stop, torch.rand(4000, 3)).bincount(minlength=4)
    assert chisquare(counts.numpy(), 4000 * stopping_distribution(stop)[0].double().numpy()).pvalue > 0.01


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_reinforce_is_on_average_the_gradient_of_the_expectation(baseline):
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rewards = torch.rand(3, 5, dtype=torch.float64)
    expected = expected_reward(logits.sigmoid(), rewards).mean()
    (exact,) = torch.autograd.grad(-expected, logits)
    probabilities = stopping_distribution(logits.sigmoid()).detach()
    enumerated = torch.zeros_like(logits)
    for step in range(5):
        taken = torch.full((3,), step)
        loss = reinforce_loss(stops_log_probability(logits, taken), rewards[:, step], torch.tensor(baseline))
        (gradient,) = torch.autograd.grad(loss, logits)
        enumerated += probabilities[:, step, None] * gradient
        assert not gradient[:, step + 1 :].any()  # decisions after the stop
    torch.testing.assert_close(enumerated, exact, rtol=0, atol=1e-15)


def test_log_probabilities_are_those_of_the_law():
    logits = torch.randn(2, 3)
    for step in range(4):
        taken = torch.full((2,), step)
        probability = stops_log_probability(logits, taken).exp()
        torch.testing.assert_close(probability, stopping_distribution(logits.sigmoid())[:, step])


def test_nothing_drifts_where_every_step_is_right_and_looking_is_free():
    logits = torch.randn(4, 3, requires_grad=True)
    right = torch.ones(4)
    reinforce_loss(stops_log_probability(logits, torch.tensor([0, 1, 2, 3])), right, torch.ones(1)).backward()
    assert not logits.grad.any()


# -- where to look


def test_the_gaussian_by_gauss_hermite():
    """For the reward -(a - c)^2 the gradient of its expectation is -2 (mu - c)."""
    mean = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
    deviation, centre = 0.22, -0.1
    points, weights = np.polynomial.hermite.hermgauss(12)
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        action = 0.4 + math.sqrt(2) * deviation * point
        log_probability = gaussian_log_probability(torch.tensor([[action]], dtype=torch.float64), mean, deviation)
        loss = reinforce_loss(log_probability, torch.tensor([-((action - centre) ** 2)]), torch.tensor(0.3))
        (gradient,) = torch.autograd.grad(-loss, mean)
        total += weight / math.sqrt(math.pi) * gradient.item()
    assert total == pytest.approx(-1.0, abs=1e-6)


def test_uniform_numbers_become_normal_ones():
    draws = torch.tensor([0.0, 0.5, 0.8413447, 1.0])
    normal = normal_of(draws)
    assert normal.isfinite().all()
    torch.testing.assert_close(normal[1:3], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
