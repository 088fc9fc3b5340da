"""A network without memory, and the weights that it would have had at once."""

import copy
import gc
from typing import ClassVar

import pytest
import torch
from torch import nn

from primenet_lightning import CutNet, PrimeNet
from primenet_lightning.nn.deferring import DeferredNetwork, deferring, named_tensors

MODELS = {
    "stack": lambda: PrimeNet(num_classes=3, depth=3, pool_every=9),
    "convolutions": lambda: CutNet("resnet20", image_size=(8, 8), parts=2, recipe="dgl"),
    "tokens": lambda: CutNet("vit_tiny", image_size=(16, 16), parts=2, recipe="predsim"),
}


@pytest.mark.parametrize("kind", ["stack", "convolutions"])
def test_weights_that_come_later_are_those_that_come_at_once(kind):
    torch.manual_seed(3)
    at_once = MODELS[kind]()
    drawn_next = torch.rand(2)
    torch.manual_seed(3)
    with deferring():
        later = MODELS[kind]()
    assert torch.equal(torch.rand(2), drawn_next)
    assert all(parameter.is_meta for parameter in later.network.parameters())
    later.fill()
    of_later = dict(named_tensors(later.network))
    for name, tensor in named_tensors(at_once.network):
        assert torch.equal(of_later[name], tensor), name
        assert of_later[name].requires_grad == tensor.requires_grad
        assert of_later[name].stride() == tensor.stride()


class EveryWay(nn.Module):
    """Parameters made in the ways that libraries make them."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 8) * 0.02)
        self.scale = nn.Parameter(torch.full((8,), 0.1))
        self.shared = nn.Linear(8, 8)
        self.again = self.shared
        for name in ("xavier_normal_", "kaiming_uniform_", "dirac_", "orthogonal_", "trunc_normal_"):
            weight = nn.Parameter(torch.empty(8, 8, 3))
            getattr(nn.init, name)(weight)
            self.register_parameter(name, weight)
        self.register_buffer("ones", torch.ones(5), persistent=False)
        self.register_buffer("rates", torch.linspace(0, 1, 5))
        self.last = nn.Parameter(torch.rand(3))


def test_parameters_made_in_unusual_ways():
    torch.manual_seed(0)
    at_once = EveryWay()
    drawn_next = torch.rand(2)
    torch.manual_seed(0)
    deferred = DeferredNetwork(EveryWay)
    assert torch.equal(torch.rand(2), drawn_next)
    assert deferred.network.position.is_meta
    torch.manual_seed(9)  # what is drawn in between does not matter
    before = torch.get_rng_state()
    deferred.fill(without=[deferred.network.position, deferred.network.trunc_normal_])
    assert torch.equal(torch.get_rng_state(), before)
    assert deferred.network.position.is_meta
    assert deferred.network.again.weight is deferred.network.shared.weight
    of_later = dict(named_tensors(deferred.network))
    for name, tensor in named_tensors(at_once):
        assert name in ("position", "trunc_normal_") or torch.equal(of_later[name], tensor), name


SHAPE = (61, 67)


def in_memory():
    """How many matrices of this shape have memory now."""
    tensors = [value for value in gc.get_objects() if isinstance(value, torch.Tensor)]
    return sum(tensor.shape == SHAPE and not tensor.is_meta for tensor in tensors)


class Watched(nn.Linear):
    """Notes how much memory there was when it had been built."""

    counts: ClassVar[list[int]] = []

    def __init__(self):
        super().__init__(*reversed(SHAPE))
        Watched.counts.append(in_memory())


def test_no_more_than_what_is_wanted_ever_has_memory():
    deferred = DeferredNetwork(lambda: nn.Sequential(*(Watched() for _ in range(4))))
    second = deferred.network[1]
    others = [parameter for layer in deferred.network if layer is not second for parameter in layer.parameters()]
    deferred.fill(without=others)
    assert Watched.counts == [0, 0, 0, 0, 0, 1, 1, 1]
    assert [layer.weight.is_meta for layer in deferred.network] == [True, False, True, True]


class Copied(nn.Module):
    """A layer, and a copy of it that learns for itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.copy = copy.deepcopy(self.layer)


def test_copies_begin_alike():
    torch.manual_seed(0)
    at_once = Copied()
    torch.manual_seed(0)
    deferred = DeferredNetwork(Copied)
    deferred.fill()
    assert torch.equal(deferred.network.copy.weight, at_once.layer.weight)
    assert torch.equal(deferred.network.layer.weight, at_once.layer.weight)


class Looking(nn.Module):
    """Copies what another one has, number by number."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(3, 4)
        with torch.no_grad():
            self.second.weight[0] = self.first.weight[0]


def test_values_that_come_from_what_has_none_are_refused():
    deferred = DeferredNetwork(Looking)
    with pytest.raises(ValueError, match=r"second\.weight gets its first values.*outside of Trainer\.init_module"):
        deferred.fill(without=[*deferred.network.first.parameters()])
    deferred.fill()
    assert torch.equal(deferred.network.second.weight[0], deferred.network.first.weight[0])


def test_a_module_given_has_its_memory_already():
    with deferring(), pytest.raises(ValueError, match=r"backbone is a module.*Trainer\.init_module"):
        CutNet(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 1, (2, 2), 3, parts=1)


@pytest.mark.parametrize("kind", ["stack", "tokens"])
def test_a_half_that_gets_its_weights_alone(kind):
    torch.manual_seed(3)
    at_once = dict(named_tensors(MODELS[kind]().network))
    torch.manual_seed(3)
    with deferring():
        later = MODELS[kind]()
    names = [name for name, tensor in named_tensors(later.network) if tensor.is_meta]
    half = {name: dict(named_tensors(later.network))[name] for name in names[::2]}
    later.fill(without=half.values())
    for name, tensor in named_tensors(later.network):
        assert tensor.is_meta == (name in half), name
        assert tensor.is_meta or torch.equal(tensor, at_once[name]), name
