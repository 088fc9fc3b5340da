"""The agent of RNP against enumeration; who learns when; costs and balances."""

import itertools

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import CompositeOptimizer, StageRunner
from primenet_lightning.baselines.rnp import DecisionNetwork, PrunableConvNet, PruningNetwork, Reward, balance_curve
from primenet_lightning.baselines.rnp.decisions import Episode, q_loss, whole
from primenet_lightning.baselines.rnp.phases import AGENT, BACKBONE, PruningPhases
from primenet_lightning.nn.systems.phases import Position
from primenet_lightning.nn.systems.policies import epsilon_greedy

PENALTY, ALPHA = -0.1, 10.0


def network(widths=(4, 8, 4)):
    torch.manual_seed(1)
    return PruningNetwork(PrunableConvNet((1, 8, 8), 3, widths, (1,)), (1, 8, 8))


def at(net, phase):
    """Bring a network to the first step of a phase."""
    table = net.stage.phases.timetable(100)
    net.position = Position(next(span.start for span in table.spans if span.phase == phase), 100)
    assert net.phase == phase
    return net


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# -- rewards


def test_returns_of_an_episode_are_those_written_out():
    losses = torch.tensor([0.05])
    for groups, expected in ((1, -0.5), (4, -0.9 - 0.5)):
        rewards = Reward(PENALTY, ALPHA).of([torch.tensor([groups])] * 3, losses)
        assert sum(reward.item() for reward in rewards) == pytest.approx(expected)
    # values that are the returns to come: with gamma = 1 every target is met
    chosen = [torch.tensor([2]), torch.tensor([3]), torch.tensor([1])]
    rewards = Reward(PENALTY, ALPHA).of(chosen, losses)
    to_come = [sum(rewards[step:]).item() for step in range(3)]
    values = [torch.full((1, 4), value) for value in to_come]
    assert q_loss(values, chosen, losses, Reward(PENALTY, ALPHA)).item() == pytest.approx(0, abs=1e-12)


def test_an_image_is_rewarded_for_itself():
    chosen = [torch.tensor([2, 2])] * 2
    sure, wrong = 0.01, 0.06
    rewards = Reward(PENALTY, ALPHA).of(chosen, torch.tensor([sure, wrong]))
    assert (rewards[-1][0] - rewards[-1][1]).item() == pytest.approx(ALPHA * (wrong - sure))
    assert rewards[0][0] == rewards[0][1]
    clipped = Reward(PENALTY, ALPHA).of(chosen, torch.tensor([50.0, 2.0]))
    torch.testing.assert_close(clipped[-1], torch.full((2,), PENALTY - ALPHA))


def test_q_learning_finds_the_values_by_enumeration():
    """Two decisions between two actions, with a loss for each of the four paths, and a table of values."""
    reward = Reward(PENALTY, loss_weight=1.0)
    losses = torch.tensor([[0.9, 0.4], [0.35, 0.3]])
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 2))
    optimizer = SGD([first, second], lr=0.5)
    for _ in range(600):
        one = epsilon_greedy(first.detach().expand(8, 2), 0.5, torch.rand(8, 2))
        two = epsilon_greedy(second.detach()[one], 0.5, torch.rand(8, 2))
        loss = q_loss([first.expand(8, 2), second[one]], [one + 1, two + 1], losses[one, two], reward)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    returns = {
        path: (path[0] + path[1]) * PENALTY - losses[path].item() for path in itertools.product((0, 1), repeat=2)
    }
    best = max(returns, key=returns.get)
    for path, value in returns.items():
        assert second[path].item() == pytest.approx(value - path[0] * PENALTY, abs=1e-2)
    for action in (0, 1):
        assert first[action].item() == pytest.approx(max(returns[action, 0], returns[action, 1]), abs=1e-2)
    assert (int(first.argmax()), int(second[best[0]].argmax())) == best == (1, 0)
    paths = torch.tensor(list(returns))
    one, two = paths.unbind(1)
    loss = q_loss([first.expand(4, 2), second[one]], [one + 1, two + 1], losses[one, two], reward)
    assert loss.item() < 1e-4


def test_the_agent_sees_what_enters_a_layer_and_nothing_that_comes_out():
    net, images = network(), torch.randn(5, 1, 8, 8)
    for layer in (1, 2):
        episode = Episode(net.agent, whole)
        net.backbone(images, episode)
        with torch.no_grad():
            net.backbone.convolutions[layer].weight.add_(1.0)
        changed = Episode(net.agent, whole)
        net.backbone(images, changed)
        assert torch.equal(episode.states[layer - 1], changed.states[layer - 1])
        assert layer == 2 or not torch.equal(episode.states[layer], changed.states[layer])


def test_acting_and_learning_give_the_same_values():
    net = network()
    episode = Episode(net.agent, whole)
    heard = []
    episode.rule = lambda values, decision: (heard.append(values), whole(values, decision))[1]
    net.backbone(torch.randn(5, 1, 8, 8), episode)
    for acted, learned in zip(heard, net.agent(episode.states), strict=True):
        torch.testing.assert_close(acted, learned)
    assert (torch.cat(heard) < 0).any()  # values are linear, for returns are negative


# -- phases


def test_epsilon_falls_linearly_over_the_steps_of_the_agent():
    phases = PruningPhases(0.2, 0.2, rounds=3, agent_share=0.6, last_epsilon=0.1)
    table = phases.timetable(50)
    epsilons = [phases.epsilon(table, step) for step in range(50) if table.phase(step) == AGENT]
    assert len(epsilons) == 18
    torch.testing.assert_close(torch.tensor(epsilons), torch.linspace(1, 0.1, 18))


@pytest.mark.parametrize("steps", [1, 2, 5, 9, 40])
def test_rounds_cover_what_is_left_of_a_fit_of_any_length(steps):
    table = PruningPhases(0.2, 0.3, rounds=8, agent_share=0.7).timetable(steps)
    for before, after in itertools.pairwise(table.spans):
        assert before.stop == after.start
    assert table.spans[-1].stop == steps
    assert AGENT in [table.phase(step) for step in range(steps)]


@pytest.mark.parametrize("phase", ["pretraining", "random_pruning", AGENT, BACKBONE])
def test_a_step_changes_the_one_that_learns_and_leaves_the_other_bit_equal(phase):
    net = at(network(), phase)
    optimizers = {name: torch.optim.Adam(parameters, 1e-2) for name, parameters in net.learners().items()}
    runner = StageRunner(net, CompositeOptimizer(optimizers))
    before = weights(net.backbone), weights(net.agent)
    record = runner.step(torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert list(record.values) == ["head", "agent"]
    assert equal(before[0], weights(net.backbone)) == (phase == AGENT)
    assert equal(before[1], weights(net.agent)) == (phase != AGENT)


def test_widths_are_at_random_in_random_pruning_and_whole_before():
    for phase, seen in (("pretraining", {4}), ("random_pruning", {1, 2, 3, 4})):
        net = at(network(), phase)
        chosen = []
        net.stage.backbone.layer = lambda layer, x, groups=None, net=net, chosen=chosen: (
            chosen.append(groups),
            PrunableConvNet.layer(net.stage.backbone, layer, x, groups),
        )[1]
        list(net.stage.run_learners(torch.randn(40, 1, 8, 8), torch.zeros(40, dtype=torch.int64)))
        groups = torch.cat([choice for choice in chosen if choice is not None])
        assert {*groups.tolist()} == seen


# -- in use


def test_everything_is_whole_before_the_agent_has_learned():
    net, images = at(network(), "random_pruning").eval(), torch.randn(3, 1, 8, 8)
    answer = net.classify(images)
    torch.testing.assert_close(answer.logits, net(images))
    assert {*answer.measures["channels/conv2"].tolist()} == {1.0}
    with pytest.raises(ValueError, match="network is in its phase 'random_pruning'"):
        balance_curve(net, images, torch.zeros(3), [0.0])


def test_the_cost_of_an_answer_is_what_the_counter_counts():
    net, images = at(network(), BACKBONE).eval(), torch.randn(30, 1, 8, 8)
    with FlopCounterMode(display=False) as counter:
        answer = net.classify(images)
    assert answer.multiply_adds.sum().item() == counter.get_total_flops() / 2
    agent = DecisionNetwork((32, 64, 64))
    assert agent.multiply_adds == (32 + 64 + 64) * 64 + 3 * (3 * (64 * 64 + 64 * 64) + 64 * 4)


def test_the_balance_goes_from_the_least_to_all_and_cost_rises_with_it():
    net = at(network(widths=(4, 8)), AGENT).eval()  # one decision: with more, another choice is another state
    net.agent.decoder.weight.data.mul_(20)
    images, labels = torch.randn(60, 1, 8, 8), torch.randint(3, (60,))
    rows = balance_curve(net, images, labels, [-1e6, -1.0, -0.3, 0.0, 0.3, 1.0, 1e6], batch_size=25)
    costs = [row.multiply_adds for row in rows]
    assert costs == sorted(costs)
    assert rows[0].channels == [0.25]
    assert rows[-1].channels == [1.0]
    assert net.balance == 0.0
    for row in rows:
        net.balance = row.balance
        answer = net.classify(images)
        wrong = sum(int(a.argmax()) != int(t) for a, t in zip(answer.logits, labels, strict=True))
        assert row.error == pytest.approx(100 * wrong / 60)
        assert row.multiply_adds == pytest.approx(sum(answer.multiply_adds.tolist()) / 60)
