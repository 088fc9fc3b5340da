import copy

import pytest
import torch

from primenet_lightning import PrimeNetwork, architecture, count_cost


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
