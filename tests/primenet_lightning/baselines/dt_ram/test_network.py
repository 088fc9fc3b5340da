"""DT-RAM's counts, who learns from what, and what thresholds do."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import CompositeOptimizer, StageRunner
from primenet_lightning.baselines.dt_ram import AttentionNetwork, RecurrentAttention, errors_by_step, threshold_curve
from primenet_lightning.baselines.dt_ram.stage import AttentionOptions
from primenet_lightning.nn.systems.phases import Position
from primenet_lightning.nn.systems.policies import stopping_distribution

LOOKING, STOPPING = Position(0, 100), Position(99, 100)


def small(position, **options):
    torch.manual_seed(2)
    layers = {name: options.pop(name) for name in ("locator_width", "first_location") if name in options}
    ram = RecurrentAttention((1, 8, 8), 3, patch=3, glimpse_width=6, width=10, **layers)
    network = AttentionNetwork(ram, (1, 8, 8), AttentionOptions(**{"steps": 4, **options}))
    network.position = position
    return network


def batch(count=8):
    return torch.randn(count, 1, 8, 8), torch.arange(count) % 3


def losses(network, images, target):
    return {output.learner: output.loss for output in network.stage.run_learners(images, target)}


def touched(network, loss):
    """Who gets a gradient from a loss."""
    network.zero_grad()
    loss.backward(retain_graph=True)
    parts = {
        "locator": network.ram.locator,
        "policy": network.policy,
        "core": torch.nn.ModuleList([network.ram.feedback, network.ram.what, network.ram.where, network.ram.join]),
        "classifier": network.ram.classifier,
    }
    names = {
        name for name, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }
    baseline = network.stage.baseline.grad
    return names | ({"baseline"} if baseline is not None and baseline.any() else set())


# -- counts


def test_parameters_and_multiply_adds_are_those_written_out():
    network = AttentionNetwork(RecurrentAttention((1, 28, 28), 10), (1, 28, 28))
    stop = sum(parameter.numel() for parameter in network.policy.parameters())
    everything = sum(parameter.numel() for parameter in network.parameters())
    assert (everything - stop, everything) == (209_421, 275_470)
    ram = network.ram
    assert (ram.step_cost, ram.step_cost - ram.first_step_cost) == (205_568, 65_536)
    assert (ram.classifier_cost, network.policy.multiply_adds) == (2_560, 65_792)
    colour = RecurrentAttention((3, 32, 32), 10, depth=2)
    assert colour.what.in_features == 384


@pytest.mark.parametrize("layers", [{}, dict(locator_width=5), dict(first_location="centre")])
def test_the_cost_of_an_answer_is_what_the_counter_counts(layers):
    network, (images, _) = small(STOPPING, **layers).eval(), batch(40)
    network.policy.decision.weight.data.mul_(20)
    probabilities = network.unroll(images)[1]
    network.threshold = probabilities.median().item()
    with FlopCounterMode(display=False) as counter:
        answer = network.classify(images)
    assert len({*answer.measures["steps"].tolist()}) > 1
    assert answer.multiply_adds.sum().item() == counter.get_total_flops() / 2
    whole = small(LOOKING, **layers).eval()
    with FlopCounterMode(display=False) as counter:
        answer = whole.classify(images)
    assert answer.multiply_adds.sum().item() == counter.get_total_flops() / 2


# -- who learns from what


def test_looking_trains_four_learners_each_by_its_own_loss():
    network = small(LOOKING)
    by_learner = losses(network, *batch())
    assert touched(network, by_learner["head"]) == {"core", "classifier"}
    assert touched(network, by_learner["locator"]) == {"locator"}  # the core's output is detached before it
    assert touched(network, by_learner["baseline"]) == {"baseline"}
    assert not by_learner["stop"].requires_grad


@pytest.mark.parametrize("gradient", ["expected", "sampled"])
def test_stopping_trains_the_policy_and_the_classifier(gradient):
    network = small(STOPPING, stop_gradient=gradient)
    network.stage.baseline.data.fill_(0.3)
    by_learner = losses(network, *batch())
    assert touched(network, by_learner["head"]) == {"classifier"}
    assert touched(network, by_learner["stop"]) == {"policy"}
    assert touched(network, by_learner["baseline"]) == {"baseline"}
    assert not by_learner["locator"].requires_grad


@pytest.mark.parametrize("gradient", ["expected", "sampled"])
def test_what_is_frozen_stays_bit_equal(gradient):
    network = small(STOPPING, stop_gradient=gradient)
    optimizers = {name: torch.optim.Adam(part, 1e-2) for name, part in network.learners().items()}
    runner = StageRunner(network, CompositeOptimizer(optimizers))
    before = copy.deepcopy(network)
    for _ in range(3):
        runner.step(*batch())
    for (name, now), (_, then) in zip(network.named_parameters(), before.named_parameters(), strict=True):
        learns = "policy" in name or "classifier" in name or "baseline" in name
        assert torch.equal(now, then) != learns, name


def test_the_losses_of_stopping_are_those_of_a_loop():
    network, (images, target) = small(STOPPING, discount=0.9), batch()
    by_learner = losses(network, images, target)
    logits, stop = network.unroll(images)
    law = stopping_distribution(stop)
    reward, entropy = 0.0, 0.0
    for image in range(8):
        for step in range(4):
            right = int(logits[image, step].argmax()) == int(target[image])
            reward += law[image, step].item() * 0.9 ** (step + 1) * right / 8
            entropy -= law[image, step].item() * logits[image, step].log_softmax(0)[target[image]].item() / 8
    assert by_learner["stop"].item() == pytest.approx(-reward, rel=1e-5)
    assert by_learner["head"].item() == pytest.approx(entropy, rel=1e-5)


def test_sampled_is_on_average_the_expectation():
    """Of the whole network, by many draws; the exact identity is tested with the policies."""
    images, target = batch()
    exact = small(STOPPING)
    losses(exact, images, target)["stop"].backward()
    sampled = small(STOPPING, stop_gradient="sampled")
    sampled.stage.baseline.data.fill_(0.4)
    repeated = images.repeat(2000, 1, 1, 1), target.repeat(2000)
    losses(sampled, *repeated)["stop"].backward()
    one, other = exact.policy.decision.weight.grad, sampled.policy.decision.weight.grad
    assert torch.cosine_similarity(one, other).item() > 0.95


def test_stopping_at_once_is_learned_where_every_step_is_right():
    network = small(STOPPING, discount=0.8)
    network.ram.classifier.weight.data.zero_()
    network.ram.classifier.bias.data.copy_(torch.tensor([9.0, 0.0, 0.0]))
    images, target = torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    optimizer = torch.optim.Adam(network.policy.parameters(), 0.05)
    first = network.unroll(images)[1][:, 0].mean().item()
    assert first == pytest.approx(0.18, abs=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        losses(network, images, target)["stop"].backward()
        optimizer.step()
    assert network.unroll(images)[1][:, 0].min().item() > 0.9


def test_cross_entropy_of_the_last_step_or_of_all_but_the_first():
    images, target = batch()
    for every_step, places in ((False, [3]), (True, [1, 2, 3])):
        network = small(LOOKING, every_step=every_step, deviation=1e-9)
        logits = network.unroll(images)[0]
        expected = sum(torch.nn.functional.cross_entropy(logits[:, place], target).item() for place in places)
        assert losses(network, images, target)["head"].item() == pytest.approx(expected / len(places), rel=1e-5)


# -- in use


def test_locations_in_use_are_the_means_and_at_most_a_pixel_less_than_half_the_image_away():
    network = small(LOOKING, locator_width=4).eval()
    images, _ = batch()
    torch.testing.assert_close(network(images), network(images))
    torch.testing.assert_close(network.classify(images).logits, network(images))
    place = network.ram.place(images, torch.full((8, 2), 7.0))
    torch.testing.assert_close(place, torch.full((8, 2), 6 / 8))
    assert not network.ram.place(images, None).any()


def test_thresholds_of_zero_and_one_are_one_glimpse_and_all():
    network, (images, labels) = small(STOPPING).eval(), batch(30)
    network.policy.decision.weight.data.mul_(20)
    middle = network.unroll(images)[1].median().item()
    rows = threshold_curve(network, images, labels, [0.0, middle, 1.0], batch_size=7)
    by_step = errors_by_step(network, images, labels, batch_size=7)
    assert [rows[0].steps, rows[-1].steps] == [1.0, 4.0]
    assert [rows[0].error, rows[-1].error] == [by_step[0], by_step[-1]]
    assert 1 < rows[1].steps < 4
    for row in rows:
        network.threshold = row.threshold
        answer = network.classify(images)
        assert row.steps == pytest.approx(answer.measures["steps"].double().mean().item())
        assert row.multiply_adds == pytest.approx(answer.multiply_adds.mean().item())
        assert row.error == pytest.approx(100 * (answer.logits.argmax(1) != labels).double().mean().item())


def test_an_image_answers_as_it_does_alone():
    network, (images, _) = small(STOPPING).eval(), batch(20)
    network.policy.decision.weight.data.mul_(20)
    network.threshold = network.unroll(images)[1].median().item()
    together = network.classify(images)
    for image in range(20):
        alone = network.classify(images[image : image + 1])
        assert alone.measures["steps"].item() == together.measures["steps"][image].item()
        torch.testing.assert_close(alone.logits[0], together.logits[image], rtol=1e-4, atol=1e-5)


def test_nothing_stops_before_that_is_learned():
    network, (images, labels) = small(LOOKING).eval(), batch()
    assert {*network.classify(images).measures["steps"].tolist()} == {4}
    with pytest.raises(ValueError, match="network is in its phase 'attention'"):
        threshold_curve(network, images, labels, [0.5])
    with pytest.raises(ValueError, match="images are none"):
        errors_by_step(network, images[:0], labels[:0])


# -- where to look


def test_a_sample_beyond_the_image_is_judged_as_it_was_drawn():
    """Only the sensor clamps it: the logarithm of the density is that of the noise, whatever the means."""
    network = small(LOOKING, locator_width=6)
    with torch.no_grad():
        network.ram.locator[-1].bias.fill_(3.0)  # means close to 1, so that most samples are beyond it
    images, _ = batch()
    noise = torch.randn(8, 8).abs() * network.stage.options.deviation
    looks = network.stage.look(images, noise)
    expected = -noise.square().sum(1) / (2 * network.stage.options.deviation**2)
    torch.testing.assert_close(looks.log_probabilities, expected)
    # the means are drawn towards the samples: by a mean the gradient is noise over variance, and tanh's is 1 - mean^2
    (gradient,) = torch.autograd.grad(looks.log_probabilities.sum(), network.ram.locator[-1].bias)
    means, hidden = [], None
    with torch.no_grad():
        for step in range(4):
            mean = network.ram.aim(images, hidden)
            means.append(mean)
            place = network.ram.place(images, mean + noise[:, 2 * step : 2 * step + 2])
            hidden = network.ram.look(images, place, hidden)
    slope = 1 - torch.cat(means, 1).square()
    by_mean = noise / network.stage.options.deviation**2 * slope
    torch.testing.assert_close(gradient, by_mean.unflatten(1, (4, 2)).sum((0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("locator_width", [None, 6])
def test_the_first_location_is_the_locators_answer_to_nothing_seen(locator_width):
    options = {} if locator_width is None else {"locator_width": locator_width}
    network, (images, _) = small(LOOKING, **options), batch()
    means = network.ram.aim(images, None)
    torch.testing.assert_close(means, network.ram.aim(images, torch.zeros(8, 10)))
    with torch.no_grad():
        list(network.ram.locator.parameters())[-1].fill_(50.0)  # a bias
    assert network.ram.aim(images, None).abs().max() <= 1


@pytest.mark.parametrize("position", [LOOKING, STOPPING])
def test_one_image_is_a_batch(position):
    network = small(position)
    for loss in losses(network, *batch(1)).values():
        assert loss.isfinite()


def test_who_rests_stays_bit_equal_although_its_optimizer_has_momentum_and_decay():
    """After a step of looking the locator has momentum; while the policy learns it does not move."""
    network = small(LOOKING)
    optimizers = {name: torch.optim.AdamW(part, 1e-2, weight_decay=0.1) for name, part in network.learners().items()}
    runner = StageRunner(network, CompositeOptimizer(optimizers))
    runner.step(*batch())
    before = copy.deepcopy(network)
    network.position = STOPPING
    runner.step(*batch())
    for (name, now), (_, then) in zip(network.named_parameters(), before.named_parameters(), strict=True):
        learns = "policy" in name or "classifier" in name or "baseline" in name
        assert torch.equal(now, then) != learns, name
