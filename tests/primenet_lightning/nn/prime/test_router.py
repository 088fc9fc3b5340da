"""What routers of one map choose, by hand on made-up losses and maps."""

from collections import Counter

import pytest
import torch
from routed import MAPS, X, routed_batch, routed_block, routed_network
from stepping import run_stages

from primenet_lightning import EndToEndNetwork
from primenet_lightning.nn.prime.router import Fixed, LeastLoss, RandomChoice
from primenet_lightning.nn.prime.routers import build_router


def test_least_loss_takes_each_batch_by_itself():
    router = LeastLoss()
    assert [router.route(losses) for losses in [(3, 1, 2), (1, 3, 2), (2, 2, 2)]] == [1, 0, 0]
    assert router.select(X, MAPS, router.decide(X, 1)) is MAPS[1]


def test_fixed_hands_on_its_capsule_whatever_the_losses_and_all_learn():
    block, (x, target) = routed_block(Fixed(capsule=1)), routed_batch()
    for _ in range(3):
        output = block(x, target)
        assert output.route == 1
        torch.testing.assert_close(output.features[:, :4], block.capsule(1)(x)[0])
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in block.capsules.parameters())
    block.eval()
    torch.testing.assert_close(block(x)[:, :4], block.capsule(1)(x)[0])
    assert [Fixed(2).route(losses) for losses in [(0, 1, 2), (2, 0, 1)]] == [2, 2]


def test_fixed_has_its_way_in_a_network_from_the_start():
    network = routed_network("fixed", {"capsule": 2})
    assert network.inference_route() == (2, 2)
    assert [stage.route for stage in run_stages(network, *routed_batch())] == [2, 2, None]
    network.inference_routing = 0  # what is asked for goes first
    assert network.inference_route() == (0, 0)


@pytest.mark.parametrize("capsule", [3, -1])
def test_fixed_is_refused_where_there_is_no_such_capsule(capsule):
    message = f"capsule={capsule} names none of the block's 3 capsules; count from 0, to 2 at most"
    with pytest.raises(ValueError, match=message):
        routed_network("fixed", {"capsule": capsule})


def test_random_takes_each_capsule_about_equally_and_pairs_too():
    """Chi-squared on capsules and on pairs in a row; 99.9 % of fair sequences stay below these bounds."""
    router = RandomChoice(seed=7)
    taken = [router.route((0.0, 1.0, 2.0)) for _ in range(3000)]
    pairs = Counter(zip(taken[::2], taken[1::2], strict=True))
    for counts, kinds, bound in ((Counter(taken), 3, 13.8), (pairs, 9, 26.1)):
        expected = sum(counts.values()) / kinds
        assert len(counts) == kinds
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < bound


def test_random_follows_from_seed_block_and_batch_alone():
    """So that all ranks agree, and no other generator matters or is moved."""

    def taken(seed, block, losses=(0.0, 1.0, 2.0)):
        router = build_router("random", block, {"seed": seed})
        return [router.route(losses) for _ in range(30)]

    state, first = torch.get_rng_state(), taken(0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert taken(0, 0, losses=(9.0, 1.0, 0.0)) == first
    assert len({tuple(first), tuple(taken(1, 0)), tuple(taken(0, 1)), tuple(taken(1, 1))}) == 4


def test_random_resumes_exactly_from_a_state_dict():
    def routes(network, batches):
        return [[stage.route for stage in run_stages(network, *routed_batch())] for _ in range(batches)]

    network, again = routed_network("random"), routed_network("random")
    routes(network, 5)
    again.load_state_dict(network.state_dict())
    assert again.inference_route() == network.inference_route()
    assert routes(again, 10) == routes(network, 10)


def test_random_infers_without_labels_by_the_route_taken_most():
    network = routed_network("random", {"seed": 3})
    taken = Counter(tuple(stage.route for stage in run_stages(network, *routed_batch()))[:2] for _ in range(12))
    most = max(taken.values())
    assert network.inference_route() == min(route for route, count in taken.items() if count == most)
    network.eval()
    torch.testing.assert_close(network(routed_batch()[0]), network(routed_batch()[0], network.inference_route()))


@pytest.mark.parametrize("name", ["fixed", "random"])
def test_end_to_end_would_leave_unrouted_capsules_untrained(name):
    with pytest.raises(ValueError, match=f"router='{name}' .* one capsule per block"):
        routed_network(name, kind=EndToEndNetwork)
