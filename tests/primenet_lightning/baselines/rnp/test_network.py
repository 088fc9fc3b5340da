"""The agent of RNP against enumeration; who learns when; costs and balances."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import CompositeOptimizer, StageRunner
from primenet_lightning.analysis.cost import count_cost, count_training
from primenet_lightning.baselines.rnp import (
    DecisionNetwork,
    PrunableConvNet,
    PruningNetwork,
    Reward,
    balance_curve,
    width_curve,
)
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


def test_the_agent_remembers_the_layers_before():
    agent = network().agent
    first, second = torch.randn(5, 4), torch.randn(5, 8)
    (_, values), (_, others) = agent([first, second]), agent([first + 1, second])
    assert not torch.allclose(values, others)


def test_values_have_the_precision_of_a_penalty_under_autocast():
    """In bfloat16 two values near -5 that differ by less than 0.03 would be the same."""
    agent = network().agent
    agent.decoder.bias.data.fill_(-5)
    states = [torch.randn(5, 4), torch.randn(5, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = agent([state.bfloat16() for state in states])
    for value, other in zip(mixed, agent([state.bfloat16().float() for state in states]), strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, other)


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


def widths_in_training(net, images):
    """Groups that a training step computes, layer by layer."""
    chosen = []

    def layer(number, x, groups=None):
        chosen.append(groups)
        return PrunableConvNet.layer(net.stage.backbone, number, x, groups)

    net.stage.backbone.layer = layer
    list(net.stage.run_learners(images, torch.zeros(len(images), dtype=torch.int64)))
    del net.stage.backbone.layer
    return [groups for groups in chosen if groups is not None]


def greedy_widths(net, images):
    """Groups of the highest value."""
    episode = Episode(net.agent, lambda values, decision: values.argmax(1))
    net.backbone(images, episode)
    return episode.chosen


def test_widths_are_at_random_in_random_pruning_and_whole_before():
    for phase, seen in (("pretraining", {4}), ("random_pruning", {1, 2, 3, 4})):
        groups = torch.cat(widths_in_training(at(network(), phase), torch.randn(40, 1, 8, 8)))
        assert {*groups.tolist()} == seen


def test_the_network_learns_at_the_widths_of_highest_value():
    net, images = at(network(), BACKBONE), torch.randn(40, 1, 8, 8)
    net.agent.decoder.weight.data.mul_(20)
    expected = greedy_widths(net, images)
    assert len({*torch.cat(expected).tolist()}) > 1
    for groups, best in zip(widths_in_training(net, images), expected, strict=True):
        assert torch.equal(groups, best)


def test_the_agent_begins_at_random_and_ends_mostly_by_its_values():
    net, images = network(), torch.randn(400, 1, 8, 8)
    table = net.stage.phases.timetable(100)
    steps = [step for step in range(100) if table.phase(step) == AGENT]
    net.agent.decoder.bias.data = torch.tensor([9.0, 0.0, 0.0, 0.0])
    by_step = {}
    for step in (steps[0], steps[-1]):
        net.position = Position(step, 100)
        first_layer = widths_in_training(net, images)[0]
        by_step[step] = (first_layer == 1).double().mean().item()
    assert by_step[steps[0]] == pytest.approx(1 / 4, abs=0.1)
    last = net.stage.phases.epsilon(table, steps[-1])
    assert by_step[steps[-1]] == pytest.approx(1 - last * 3 / 4, abs=0.1)
    assert last < 0.2


def test_the_loss_of_the_agent_is_that_of_a_loop_over_images():
    """Each image is rewarded by its own cross-entropy, not by the mean of the batch."""
    net, images, target = at(network(), AGENT), torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    reward = net.stage.reward
    torch.manual_seed(3)
    outputs = list(net.stage.run_learners(images, target))
    torch.manual_seed(3)
    chosen = widths_in_training(net, images)
    squares = []
    for number in range(6):
        own = Episode(net.agent, lambda values, decision, number=number: chosen[decision][number : number + 1] - 1)
        logits = net.backbone(images[number : number + 1], own)
        loss = functional.cross_entropy(logits, target[number : number + 1]).item()
        values = [value[0] for value in net.agent(own.states)]
        for decision, value in enumerate(values):
            groups = int(own.chosen[decision])
            goal = (groups - 1) * reward.penalty
            if decision + 1 < len(values):
                goal += values[decision + 1].max().item()
            else:
                goal -= min(reward.loss_weight * loss, reward.loss_weight)
            squares.append((goal - value[groups - 1].item()) ** 2)
    assert outputs[1].loss.item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)


@pytest.mark.parametrize("change", [(AGENT, BACKBONE), (BACKBONE, AGENT)])
def test_who_rests_stays_bit_equal_although_its_optimizer_has_momentum_and_decay(change):
    net = network()
    options = dict(lr=1e-2, weight_decay=0.1)
    optimizers = {name: torch.optim.AdamW(parameters, **options) for name, parameters in net.learners().items()}
    runner = StageRunner(net, CompositeOptimizer(optimizers))
    images, target = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    learned, resting = change
    part = {AGENT: net.agent, BACKBONE: net.backbone}[learned]
    at(net, learned)
    runner.step(images, target)
    before = weights(part)
    at(net, resting)
    runner.step(images, target)
    assert equal(before, weights(part))


def test_training_costs_the_mean_over_the_phases():
    net = network()
    table, costs = net.stage.phases.timetable(1000), {}
    for phase in ("pretraining", "random_pruning", AGENT, BACKBONE):
        lone = at(network(), phase)
        lone.shares_of_phases = lambda lone=lone: {lone.position: 1.0}
        costs[phase] = count_training(lone)
    assert len({*costs.values()}) > 1
    expected = sum(costs[span.phase] * span.length for span in table.spans) / 1000
    assert count_training(net) == round(expected)
    for phase in (AGENT, BACKBONE):  # wherever a checkpoint was saved
        assert count_cost(at(network(), phase)).multiply_adds_training == pytest.approx(expected, rel=0.02)


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


def test_the_balance_has_ends_of_several_decisions_and_none_beyond():
    net = at(network(), AGENT).eval()
    images, labels = torch.randn(20, 1, 8, 8), torch.randint(3, (20,))
    least, most = balance_curve(net, images, labels, [-1e6, 1e6])
    assert (least.channels, most.channels) == ([0.25, 0.25], [1.0, 1.0])
    for balance in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=f"balance={balance} must be a number"):
            balance_curve(net.train(), images, labels, [0.5, balance])
        assert net.balance == 0.0
        assert net.training
    with pytest.raises(ValueError, match="images are 20, but labels 19; give one label an image"):
        balance_curve(net, images, labels[1:], [0.0])


def test_every_width_is_that_of_a_network_cut_to_it():
    net = at(network(), AGENT).eval()
    images, labels = torch.randn(50, 1, 8, 8), torch.randint(3, (50,))
    rows = width_curve(net, images, labels, batch_size=20)
    assert [row.groups for row in rows] == [1, 2, 3, 4]
    for row in rows:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            x = images
            for layer, convolution in enumerate(net.backbone.convolutions):
                width = net.backbone.widths[layer] * (row.groups if layer else 4) // 4
                weight = convolution.weight[:width, : x.shape[1]]
                x = net.backbone.pool(layer, functional.conv2d(x, weight, convolution.bias[:width], padding=1).relu())
            classifier = net.backbone.classifier
            logits = functional.linear(x.mean((2, 3)), classifier.weight[:, : x.shape[1]], classifier.bias)
        assert row.error == pytest.approx(100 * (logits.argmax(1) != labels).double().mean().item())
        assert row.multiply_adds == counter.get_total_flops() / 2 / 50
