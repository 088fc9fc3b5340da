"""What routers settle on, by hand on made-up losses."""

import pytest
import torch
from routed import routed_batch, routed_block

from primenet_lightning.nn.prime.lasting import Commit, Settle
from primenet_lightning.nn.prime.routers import build_router


def test_settle_follows_the_average_and_not_the_batch():
    router = Settle(decay=0.5, hysteresis=0.0)
    # averages, not corrected for the start: (0.5, 0.6), then (0.85, 0.6), then (0.825, 0.7)
    assert [router.route(losses) for losses in [(1.0, 1.2), (1.2, 0.6), (0.8, 0.8)]] == [0, 1, 1]
    assert router.averages == pytest.approx([0.825, 0.7])


def test_settle_keeps_its_leader_until_another_is_clearly_better():
    eager, settled = Settle(decay=0.0, hysteresis=0.0), Settle(decay=0.0, hysteresis=0.1)
    losses = [(1.0, 2.0), (1.0, 0.95), (1.0, 0.91), (1.0, 0.89), (0.85, 0.89)]
    assert [eager.route(values) for values in losses] == [0, 1, 1, 1, 0]
    assert [settled.route(values) for values in losses] == [0, 0, 0, 1, 1]


def test_settle_is_not_biased_at_its_start():
    """Whatever the decay, the first batch alone decides first."""
    assert Settle(decay=0.999, hysteresis=0.5).route((2.0, 3.0, 1.0)) == 2


def test_label_free_inference_follows_the_leader_at_once():
    """Not the majority of the last batches, which what follows may have forgotten."""
    block, (x, target) = routed_block(Settle(decay=0.0, hysteresis=0.0)), routed_batch()
    for _ in range(20):
        block(x, target)
    other = (block.router.leader + 1) % 3
    block.router.route([0.0 if index == other else 1.0 for index in range(3)])
    assert block.history.majority() != (other,)
    block.eval()
    torch.testing.assert_close(block(x), block.through(x, other))


def test_commit_keeps_for_good_what_led_at_the_end_of_its_warm_up():
    router = Commit(warm_up=3, decay=0.0, hysteresis=0.0)
    taken = [router.route(losses) for losses in [(1, 2), (2, 1)]]
    assert (taken, router.committed) == ([0, 1], None)
    assert (router.route((3, 1)), router.committed) == (1, 1)
    assert [router.route((0, 9)) for _ in range(5)] == [1] * 5


def test_blocks_commit_one_after_the_other():
    assert [build_router("commit", index, {"warm_up": 10}).warm_up for index in range(3)] == [10, 20, 30]


def test_a_router_that_is_built_again_waits_no_longer():
    router = Commit(warm_up=10)
    for _ in range(2):
        router.build((3, 8, 8), 3, 2)
        assert router.warm_up == 30


def test_state_of_a_router_survives_a_checkpoint_bit_for_bit():
    router, again = Commit(warm_up=3), Commit(warm_up=3)
    for losses in [(0.1, 1 / 3), (1 / 7, 0.2), (0.3, 0.1)]:
        router.route(losses)
    again.load_state_dict(router.state_dict())
    assert (again.averages, again.batches, again.leader, again.committed) == (router.averages, 3, 0, 0)
