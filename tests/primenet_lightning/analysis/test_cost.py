import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning import PrimeNetwork, architecture, count_cost
from primenet_lightning.analysis.cost import count_module


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_compact_costs_what_the_paper_claims_whichever_capsule_is_routed(channels, side):
    network = PrimeNetwork.build(channels, (side, side), 10, architecture("compact", (side, side)))
    for route in network.joint_routes():
        cost = count_cost(network, route)
        assert cost.parameters <= 410_000
        assert cost.multiply_adds_inference <= 2_700_000


def test_inference_is_the_sum_over_layers_written_out():
    a = architecture("paper", (28, 28))
    network = PrimeNetwork.build(1, (28, 28), 10, a)
    for index, k in enumerate((3, 5, 7)):
        pixels = 28 * 28
        capsule = pixels * (1 * 32 + 32 * 64 * k * k)
        projection = pixels * 1 * 64
        head = 14 * 14 * 128 * 128 * 9 + 7 * 7 * 128 * 10
        assert count_cost(network, (index,)).multiply_adds_inference == capsule + projection + head


def test_what_is_run_has_the_pairs_of_convolutions_folded():
    network = PrimeNetwork.build(3, (32, 32), 10, architecture("compact", (32, 32)))
    head = 8 * 8 * 32 * 56 * 9 + 4 * 4 * 56 * 10
    for index, k in enumerate((3, 5, 7)):
        features = 16 * 16 * (3 * 16 * k * k + 3 * 16)  # capsule and projection
        assert count_cost(network, (index,), as_run=True).multiply_adds_inference == features + head
    capsules = sum(2 * 16 * 16 * 3 * 16 * k * k + 3 * 16 * 16 * 16 * 10 for k in (3, 5, 7))
    projection = 2 * 16 * 16 * 3 * 16
    assert count_cost(network, as_run=True).multiply_adds_training == capsules + projection + 3 * head


def test_deeper_blocks_run_as_they_are_written():
    """Their 1x1 convolutions reduce the channels: folded they would cost more."""
    network = PrimeNetwork.build(20, (8, 8), 10, architecture("compact", (8, 8)))
    assert count_cost(network) == count_cost(network, as_run=True)


def test_training_is_forward_and_backward_of_everything():
    a = architecture("paper", (8, 8))
    network = PrimeNetwork.build(1, (8, 8), 10, a)
    forward = 0
    for k in (3, 5, 7):
        forward += 64 * 32 * 64 * k * k + 64 * 64 * 10  # these two get gradients for input and weight
    forward += 4 * 4 * 128 * 128 * 9 + 2 * 2 * 128 * 10
    first = 3 * 64 * 32 + 64 * 64  # the 1x1 convolutions on the image need no gradient for it
    assert count_cost(network).multiply_adds_training == 3 * forward + 2 * first


def test_counting_leaves_the_network_as_it_was():
    network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
    before = copy.deepcopy(network.state_dict())
    count_cost(network)
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in network.parameters())


def test_min_entropy_and_oracle_pay_for_all_capsules():
    costs = {
        routing: count_cost(
            PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)), inference_routing=routing)
        ).multiply_adds_inference
        for routing in (0, 1, 2, "min_entropy", "oracle")
    }
    assert costs["min_entropy"] == costs["oracle"] > max(costs[0], costs[1], costs[2])


def plain():
    """A convolution of 6 x 5 pixels, one in two groups with stride 2, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 2, stride=2, groups=2),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(6 * 3 * 2, 7),
    )


FIRST, GROUPED, LINEAR = 6 * 5 * 9 * 2 * 4, 3 * 2 * 4 * (4 // 2) * 6, 36 * 7
PARAMETERS = (9 * 2 * 4 + 4) + 8 + (4 * 2 * 6 + 6) + (36 * 7 + 7)


def test_any_module_costs_what_its_layers_do_by_hand():
    forward = FIRST + GROUPED + LINEAR
    gradients = FIRST + 2 * (GROUPED + LINEAR)  # of weights; of inputs too, but for the images
    assert count_module(plain(), (2, 6, 5)) == (PARAMETERS, forward, forward + gradients)


def test_frozen_layers_of_a_module_have_no_backward():
    module = plain()
    module[:4].requires_grad_(False)
    forward = FIRST + GROUPED + LINEAR
    assert count_module(module, (2, 6, 5)) == (PARAMETERS, forward, forward + LINEAR)
    assert count_module(module.requires_grad_(False), (2, 6, 5)) == (PARAMETERS, forward, forward)


def test_the_loss_of_a_module_may_be_any():
    """Only what the loss reaches goes backward; what it computes by itself counts in training alone."""

    class TwoAnswers(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(12, 5), nn.Linear(12, 7)

        def forward(self, x):
            return self.first(x.flatten(1)), self.second(x.flatten(1))

    def loss(output, target):
        return functional.cross_entropy(output[1] @ torch.ones(7, 3), target)

    assert count_module(TwoAnswers(), (3, 2, 2), loss)[1:] == (12 * 12, 12 * 5 + 2 * 12 * 7 + 2 * 7 * 3)


def test_counting_leaves_a_module_and_the_generator_as_they_were():
    module = plain().eval()
    before, drawn = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    count_module(module, (2, 6, 5))
    assert not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match=r"module cannot take images of in_shape=\(3, 6, 5\): .*to have 2 channels"):
        count_module(plain(), (3, 6, 5))
    network = PrimeNetwork.build(1, (8, 8), 10, architecture("compact", (8, 8)))
    with pytest.raises(ValueError, match="module is a PrimeNetwork, which trains by stages; count it with count_cost"):
        count_module(network, (1, 8, 8))
