"""Capsules that go, and come back."""

import copy

import torch

from primenet_lightning import conv_capsules
from primenet_lightning.nn.prime.capsule_dict import CapsuleDict


def make():
    torch.manual_seed(0)
    return CapsuleDict(conv_capsules(1, (8, 8), 3, channels=4))


def test_the_others_go_with_their_memory_and_their_gradients():
    capsules = make()
    gone = [*capsules["k3"].parameters(), *capsules["k7"].parameters()]
    for parameter in gone:
        parameter.grad = torch.ones_like(parameter)
    left = capsules["k5"]
    before = copy.deepcopy(left.state_dict())
    assert capsules.keep_only("k5", needed=set()) == ["k3", "k7"]
    assert capsules.names == ["k5"]
    assert capsules.in_order == [left]
    assert all(parameter.numel() == 0 and parameter.grad is None for parameter in gone)
    assert all(torch.equal(value, before[name]) for name, value in left.state_dict().items())


def test_what_something_else_has_too_keeps_its_memory():
    capsules = make()
    shared = capsules["k3"].classifier
    needed = {id(parameter) for parameter in shared.parameters()}
    capsules.keep_only("k7", needed)
    assert all(parameter.numel() for parameter in shared.parameters())


def test_a_tensor_of_two_capsules_stays_for_the_one():
    capsules = make()
    capsules["k5"].classifier = capsules["k3"].classifier
    capsules.keep_only("k5", needed=set())
    assert all(parameter.numel() for parameter in capsules["k5"].parameters())


def test_they_come_back_in_their_old_places_for_a_checkpoint_of_before():
    capsules = make().eval()
    saved = copy.deepcopy(capsules.state_dict())
    names = set(capsules.names)
    capsules.keep_only("k5", needed=set())
    assert capsules.misses(names)
    assert not capsules.misses({"k5"})
    capsules.restore(torch.device("cpu"), torch.float32)
    assert capsules.names == ["k3", "k5", "k7"]
    assert not any(capsule.training for capsule in capsules.in_order)
    capsules.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in capsules.state_dict().items())
    assert not capsules.misses(names)
