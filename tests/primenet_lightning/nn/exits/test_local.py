"""Local classifiers as exits: their answers are those in training, their costs those written out."""

import pytest
import torch
from torch import nn

from primenet_lightning import CutNetwork, PrimeNet
from primenet_lightning.analysis.cost import count_inference
from primenet_lightning.nn.exits.costs import exit_costs
from primenet_lightning.nn.exits.local import LocalExits
from primenet_lightning.nn.exits.network import classify
from primenet_lightning.nn.exits.thresholds import confidences


def prime(**options):
    torch.manual_seed(1)
    sizes = dict(image_size=(16, 16), depth=3, reduce_channels=2, channels=4, projection_channels=3, head_channels=5)
    return PrimeNet(**(sizes | options)).network.eval()


def chain():
    layers = [nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)]
    return nn.Sequential(*layers)


@torch.no_grad()
def test_answers_of_prime_nets_exits_are_those_of_the_capsules_on_the_route():
    network, x, target = prime(inference_routing=(2, 0, 1)), torch.randn(6, 1, 16, 16), torch.arange(6)
    names = ["block0.k7", "block1.k3", "block2.k5", "head"]
    evaluation = network.evaluate(x, target)
    for name, logits in zip(names, LocalExits(network)(x), strict=True):
        torch.testing.assert_close(logits, evaluation.logits[name])
    assert torch.equal(LocalExits(network)(x)[-1], network(x))


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["greedy", "dgl", "infopro"])
def test_answers_of_a_cut_networks_exits_are_those_of_its_local_classifiers(recipe):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )
    network, x = CutNetwork(model, (1, 8, 8), at=["2", "4"], recipe=recipe).eval(), torch.randn(5, 1, 8, 8)
    evaluation = network.evaluate(x, torch.arange(5))
    exits = LocalExits(network)(x)
    for name, logits in zip(["part0", "part1", "head"], exits, strict=True):
        torch.testing.assert_close(logits, evaluation.logits[name])
    torch.testing.assert_close(exits[-1], model(x))


def test_costs_of_a_cut_chain_written_out():
    network = CutNetwork(chain(), (1, 8, 8), at=["3", "5"], recipe="greedy")
    assert exit_costs(LocalExits(network), (1, 8, 8)) == [
        64 * 30 + 30 * 10,
        64 * 30 + 30 * 10 + 30 * 20 + 20 * 10,
        64 * 30 + 30 * 10 + 30 * 20 + 20 * 10 + 20 * 10,
    ]


def test_costs_of_prime_net_leave_out_the_projection_of_the_block_that_is_left():
    """By hand: the last exit pays for the network and for all local classifiers, the first for neither projection."""
    network = prime(depth=2, inference_routing=(0, 0))
    exits = LocalExits(network)
    first, second, last = exit_costs(exits, network.in_shape)
    classifiers = []
    for block in network.prime_blocks:
        (dense,) = [part for part in block.capsule(0).classifier.modules() if isinstance(part, nn.Linear)]
        classifiers.append(dense.in_features * dense.out_features)
    assert last == count_inference(network) + sum(classifiers)
    assert exit_costs(exits, network.in_shape, as_run=True)[-1] == count_inference(network, as_run=True) + sum(
        classifiers
    )
    _, height, width = network.prime_blocks[0].map_shape
    assert first == 16 * 16 * 1 * 2 + height * width * 9 * 2 * 4 + classifiers[0]
    assert first < second < last


@torch.no_grad()
def test_images_leave_a_prime_net():
    network, x = prime(), torch.randn(20, 1, 16, 16)
    exits = LocalExits(network)
    answers = exits(x)
    middle = float(confidences(answers[0]).quantile(0.5))
    logits, taken = classify(exits, x, [middle, 2.0, 2.0, 2.0])
    assert sorted(taken.tolist()) == [0] * 10 + [3] * 10
    for row in range(20):
        torch.testing.assert_close(logits[row], answers[taken[row]][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda: prime(router="gate"), "block0 has router='gate', which chooses no capsule for all images"),
        (lambda: prime(inference_routing="oracle"), "inference_routing='oracle' has no route that holds for all imag"),
        (
            lambda: PrimeNet(local=False, router="mean").network,
            "network is a EndToEndNetwork, which has no local classifiers",
        ),
    ],
)
def test_networks_without_exits_are_refused(network, sentence):
    with pytest.raises(ValueError, match=sentence):
        LocalExits(network())


def test_an_objective_without_a_classifier_is_refused():
    network = CutNetwork(chain(), (1, 8, 8), at=["3"], recipe="greedy")
    del network.objectives[0].classifier
    with pytest.raises(ValueError, match="part0 learns from a Classified, which has no classifier to leave by"):
        LocalExits(network)
