"""Exits against their definition, image by image, and costs against a count by hand."""

import copy

import pytest
import torch
from torch.nn import functional

from primenet_lightning.baselines import MultiExit, MultiExitNetwork, exit_costs, exit_table, exits_taken
from primenet_lightning.baselines.multi_exit import DenseLayer

THRESHOLDS = [0.0, 0.2, 0.3, 0.35, 0.4, 0.5, 0.7, 0.9, 1.0]


def uncertain_network():
    """Exits that differ from image to image: batch norms have seen data, and the logits are spread out."""
    torch.manual_seed(2)
    network = MultiExitNetwork(1, 4, exits=3, layers=2, channels=4, growth=2, exit_channels=6)
    for _ in range(30):
        network(torch.randn(32, 1, 8, 8))
    for leave, scale in zip(network.exits, (1.0, 2.0, 3.0), strict=True):
        leave[-1].weight.data *= scale
    return network.eval()


@torch.no_grad()
def test_classify_is_the_first_exit_that_is_sure_image_by_image():
    network, images = uncertain_network(), torch.randn(25, 1, 8, 8)
    seen = set()
    for threshold in (0.0, 0.35, 0.5, 1.0):
        logits, taken = network.classify(images, threshold)
        for i in range(25):
            answers = network(images[i : i + 1])
            place = next((p for p, a in enumerate(answers) if a.softmax(1).max() >= threshold), 2)
            assert taken[i] == place
            torch.testing.assert_close(logits[i], answers[place][0], rtol=1e-4, atol=1e-5)
        assert torch.equal(taken, exits_taken(network(images), threshold))
        seen |= {*taken.tolist()}
    assert seen == {0, 1, 2}


@torch.no_grad()
def test_only_images_that_stay_are_computed():
    network, images = uncertain_network(), torch.randn(40, 1, 8, 8)
    sizes = []
    for leave in network.exits:
        leave.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    taken = network.classify(images, 0.4)[1]
    assert sizes == [40, int((taken > 0).sum()), int((taken > 1).sum())]
    sizes.clear()
    network.classify(images, 0.0)
    assert sizes == [40]


@torch.no_grad()
def test_cost_falls_as_the_threshold_is_lowered():
    network, images = uncertain_network(), torch.randn(60, 1, 8, 8)
    labels, costs = torch.randint(4, (60,)), [10, 25, 70]
    logits = network(images)
    rows = exit_table(logits, labels, costs, THRESHOLDS)
    paid = [row.multiply_adds for row in rows]
    assert paid == sorted(paid)
    assert paid[0] == 10
    assert len({*paid}) > 4
    for row in rows:
        answers, taken = network.classify(images, row.threshold)
        assert row.multiply_adds == pytest.approx(sum(costs[i] for i in taken) / 60)
        assert row.error == pytest.approx(100 * (answers.argmax(1) != labels).double().mean().item())


def test_costs_are_those_written_out():
    """Images of 8x8, fine maps of 8x8, coarse ones of 4x4; exits of 2x2 and 1x1."""
    fine, coarse, growth, exit_channels, classes = 4, 8, 2, 6, 5
    total, expected = 64 * 9 * 1 * fine + 16 * 9 * fine * coarse, []
    for number in range(6):
        if number:
            total += 64 * 9 * fine * growth
            fine += growth
        total += 16 * 9 * (fine + coarse) * growth
        coarse += 2 * growth
        if number % 2:
            total += 4 * 9 * coarse * exit_channels + 9 * exit_channels**2 + exit_channels * classes
            expected.append(total)
    network = MultiExitNetwork(1, classes, 3, 2, channels=4, growth=growth, exit_channels=exit_channels)
    before = copy.deepcopy(network.state_dict())
    assert exit_costs(network, (1, 8, 8)) == expected
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_layer_sees_all_maps_before_it():
    """MSDNet's equation: the coarse maps from all fine ones by a stride of 2, and from all coarse ones."""
    layer = DenseLayer(fine=3, coarse=6, growth=2, first=False).eval()
    fine, coarse = torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4)
    wider, deeper = layer((fine, coarse))

    def relu(part, x, stride):  # batch norm as initialised only divides by the root of 1 + eps
        return functional.conv2d(x, part[0].weight, stride=stride, padding=1).relu() / (1 + 1e-5) ** 0.5

    torch.testing.assert_close(wider, torch.cat([fine, relu(layer.fine, fine, 1)], 1))
    new = [relu(layer.down, wider, 2), relu(layer.same, coarse, 1)]
    torch.testing.assert_close(deeper, torch.cat([coarse, *new], 1))


def test_it_learns_from_the_sum_of_all_exits_and_every_parameter_does():
    model = MultiExit(1, (8, 8), 10)
    images, target = torch.randn(12, 1, 8, 8), torch.arange(12) % 10
    ((learner, loss, logits, _),) = model.network.stages[0].run_learners(images, target)
    answers = model.network.model(images)
    assert learner == "head"
    assert loss.item() == pytest.approx(sum(functional.cross_entropy(a, target).item() for a in answers), rel=1e-5)
    torch.testing.assert_close(logits, answers[-1])
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_module_answers_at_its_threshold():
    model = MultiExit(threshold=0.0).eval()
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(model(images), model.network.model(images)[0])


def test_impossible_numbers_are_refused():
    for threshold in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"threshold={threshold} is no probability"):
            MultiExit(threshold=threshold)
    with pytest.raises(ValueError, match="exits=0 must be at least 1"):
        MultiExit(exits=0)
    with pytest.raises(ValueError, match=r"costs=\[1\] are 1 for 2 exits"):
        exit_table([torch.zeros(1, 2)] * 2, torch.zeros(1), [1], [0.5])
