"""Routers by name, and what holds for each of them."""

import re
import sys
from typing import get_args

import pytest
import torch
from routed import MAPS, X, routed_batch, routed_block, routed_network
from stepping import run_stages
from torch import nn

from primenet_lightning import Capsule, PrimeBlock, Router
from primenet_lightning.nn.prime.routers import ROUTERS, RouterName, build_router


@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "gate"])
def test_label_free_forward_is_what_evaluation_hands_on(name):
    block, (x, target) = routed_block(build_router(name)), routed_batch()
    block(x, target)
    block.eval()
    torch.testing.assert_close(block(x), block(x, target).features)
    assert block(x).shape[1:] == block.out_shape


def test_what_is_handed_on_carries_no_gradient():
    for name in ROUTERS:
        block, (x, target) = routed_block(build_router(name)), routed_batch()
        assert not block(x.requires_grad_(), target).features.requires_grad, name


def test_names_for_types_and_names_for_options_are_the_same():
    assert set(get_args(RouterName)) == set(ROUTERS)


def test_learned_and_fixed_names_are_taken():
    capsule = Capsule(nn.Conv2d(2, 4, 1), nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 3)))
    with pytest.raises(ValueError, match="capsules has one named 'gate', the name of the router's loss; rename it"):
        PrimeBlock((2, 8, 8), {"gate": capsule}, None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("argmin", {}, r"router='argmin' is unknown; use one of 'least_loss', 'settle', 'commit'"),
        ("commit", {"warmup": 3}, "router_options has 'warmup', which router='commit' does not take; it takes warm_up"),
        ("commit", {"warm_up": "a"}, r"router_options=\{'warm_up': 'a'\} do not fit router='commit'"),
        ("mean", {"warm_up": 3}, "router_options has 'warm_up', which router='mean' does not take; it takes none"),
        ("commit", {"warm_up": 0}, "warm_up=0 must be at least 1 batch"),
        ("settle", {"decay": 1.0}, "decay=1.0 must be at least 0 and below 1"),
        ("settle", {"hysteresis": -0.1}, "hysteresis=-0.1 must be at least 0 and below 1"),
        ("gate", {"per": "epoch"}, "per='epoch' is unknown; use 'sample' or 'batch'"),
        ("gate", {"hidden": 0}, "hidden=0 must be at least 1"),
        ("fixed", {"index": 1}, "router_options has 'index', which router='fixed' does not take; it takes capsule"),
        ("fixed", {"capsule": 1.5}, r"router_options=\{'capsule': 1.5\} do not fit router='fixed'"),
        ("random", {"seed": -1}, "seed=-1 must be at least 0"),
        ("random", {"seed": "a"}, r"router_options=\{'seed': 'a'\} do not fit router='random'"),
    ],
)
def test_impossible_routers_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_router(name, 0, options)


@pytest.mark.parametrize("name", ["least_loss", "settle", "commit", "fixed", "random"])
def test_a_router_of_one_map_gives_it_to_every_image(name):
    router = build_router(name)
    assert router.decide(X, 1) == 1
    assert router.select(X, MAPS, 1) is MAPS[1]
    assert router.taken(X, MAPS, 1).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["concatenate", "mean"])
def test_no_image_takes_one_capsule_where_all_maps_go_on(name):
    assert build_router(name).taken(X, MAPS, 1).tolist() == [-1, -1]


def test_only_commit_prunes():
    assert [name for name, kind in ROUTERS.items() if kind.prunes] == ["commit"]


@pytest.mark.parametrize("name", list(ROUTERS))
def test_a_block_tells_its_router_its_place(name):
    router = build_router(name, index=2)
    router.build((3, 8, 8), 3)
    assert router.block_index == 2  # what is not said stays
    router.build((3, 8, 8), 3, 1)
    assert router.block_index == 1


MY_PACKAGE = """
from primenet_lightning import Router

class Last(Router):
    def __init__(self, back=0):
        super().__init__()
        self.back = back

    def route(self, values):
        return len(values) - 1 - self.back

number = 1
"""


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    (tmp_path / "my_routers.py").write_text(MY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_routers"
    sys.modules.pop("my_routers", None)


def test_a_router_of_ones_own_comes_by_its_import_path(my_package):
    router = build_router(f"{my_package}.Last", index=3, options={"back": 1})
    assert isinstance(router, Router)
    assert (router.route([0.1, 0.2, 0.3]), router.block_index) == (1, 3)
    network = routed_network(f"{my_package}.Last", {"back": 1})
    assert [stage.route for stage in run_stages(network, *routed_batch())] == [1, 1, None]
    with pytest.raises(ValueError, match=r"has 'front', which router='my_routers.Last' does not take; it takes back"):
        build_router(f"{my_package}.Last", options={"front": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_package.Mine", r"cannot be imported: No module named 'no_package'; give the path of a class"),
        ("my_routers.First", r"cannot be imported: module 'my_routers' has no attribute 'First'; give the path"),
        ("..Mine", r"cannot be imported: .*; give the path of a class"),
        ("my_routers.number", r"is no router; give the path of a subclass of primenet_lightning\.Router"),
        ("torch.nn.Linear", r"is no router; give the path of a subclass of primenet_lightning\.Router"),
    ],
)
def test_import_paths_that_lead_to_no_router_are_refused(my_package, name, message):
    with pytest.raises(ValueError, match=f"router='{re.escape(name)}' {message}"):
        build_router(name)
