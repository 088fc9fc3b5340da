"""From an architecture to blocks and a head."""

from dataclasses import replace

import pytest
import torch

from primenet_lightning import Capsule, PrimeNetwork, architecture
from primenet_lightning.nn.prime.building import Plan, pool_follows

SMALL = replace(architecture("compact", (8, 8)), reduce_channels=2, channels=4, projection_channels=3, head_channels=5)


def plan(**options):
    return Plan(**(dict(architecture=SMALL, in_shape=(2, 16, 16), num_classes=3, depth=2) | options))


def test_each_block_is_built_for_what_the_one_before_hands_on():
    blocks = plan(depth=3, pool_every=(1,)).blocks()
    assert [block.in_shape for block in blocks] == [(2, 16, 16), (7, 16, 16), (7, 8, 8)]
    assert [block.pooled for block in blocks] == [False, True, False]
    assert [block.closed for block in blocks] == [True, True, False]


def test_the_network_is_that_of_build():
    torch.manual_seed(0)
    made = plan()
    blocks = made.blocks()
    by_plan = PrimeNetwork(blocks, made.head(blocks[-1].out_shape))
    torch.manual_seed(0)
    built = PrimeNetwork.build(2, (16, 16), 3, SMALL, depth=2)
    assert by_plan.state_dict().keys() == built.state_dict().keys()
    for (name, one), (_, other) in zip(by_plan.named_parameters(), built.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_parts_may_be_built_otherwise():
    def capsules(index, in_shape):
        channels = in_shape[0]
        features = torch.nn.Conv2d(channels, 4, 1)
        return {"only": Capsule(features, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3)))}

    blocks = plan(pool_every=()).blocks(capsules, lambda index, in_shape, map_size: None)
    assert [block.capsule_names for block in blocks] == [["only"], ["only"]]
    assert [block.projection for block in blocks] == [None, None]
    assert blocks[1].in_shape == (4, 16, 16)


def test_images_that_are_too_small_and_no_blocks_are_refused():
    with pytest.raises(ValueError, match=r"image_size=\(4, 4\) is too small for depth=4"):
        plan(in_shape=(2, 4, 4), depth=4).blocks()
    with pytest.raises(ValueError, match="depth=0 must be at least 1 block"):
        plan(depth=0).blocks()


@pytest.mark.parametrize(
    ("pool_every", "pooled"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (99, []), ((), []), ((0, 3), [0, 3])]
)
def test_where_pools_follow(pool_every, pooled):
    assert [index for index in range(4) if pool_follows(pool_every, index)] == pooled
