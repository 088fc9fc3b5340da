"""The bytes that autograd holds, against counts by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from primenet_lightning import Architecture, EndToEndNetwork, PrimeNetwork
from primenet_lightning.analysis.memory import SavedActivations, training_activation_bytes

NUMBER = 4  # bytes
WIDTHS = Architecture(4, 8, 4, 8, "pooled", stride=1, router="mean")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("checkpointed", "tensors"), [(False, 5 * 3), (True, 4 + 3)])
def test_layers_of_tanh_save_their_outputs_and_nothing_else(device, checkpointed, tensors):
    """Checkpointed: the inputs of all segments but the first, and one segment that is computed again."""
    x = torch.linspace(-1, 1, 1000, device=device, requires_grad=True)

    def segment(x):
        return x.tanh().tanh().tanh()

    y = x
    with SavedActivations([x]) as counter:
        for _ in range(5):
            y = checkpoint(segment, y, use_reentrant=True) if checkpointed else segment(y)
        (y * y).sum().backward()  # saves y twice more, in the storage that is counted
    assert (counter.peak, counter.alive) == (tensors * 1000 * NUMBER, 0)


def test_a_storage_counts_whole_and_once_until_its_last_view_is_let_go():
    x, uncounted = torch.ones(10, 10, requires_grad=True), torch.ones(10)
    with SavedActivations([x, uncounted]) as counter:
        y = x.exp()
        first, second = y[0].exp(), y[1] * uncounted
        assert counter.alive == (100 + 10) * NUMBER
        second.sum().backward(retain_graph=True)
        assert counter.alive == (100 + 10) * NUMBER
        del first, second, y
    assert (counter.alive, counter.peak) == (0, (100 + 10) * NUMBER)


def plain(outputs):
    """Each linear layer that follows saves nothing of its own: its input is what tanh has saved."""
    features = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Dropout(0.0), nn.Flatten())
    return nn.Sequential(features, Answers(3 * 5 * 4, outputs) if outputs > 1 else nn.Linear(3 * 5 * 4, 7))


class Answers(nn.ModuleList):
    def __init__(self, features, outputs):
        super().__init__(nn.Linear(features, 7) for _ in range(outputs))

    def forward(self, x):
        return [layer(x) for layer in self]


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_plain_network_by_hand(outputs):
    network, images = plain(outputs), 11
    each = images * 7 + 1  # log-softmax, and the weight that the negative log-likelihood divides by
    expected = images * 3 * 5 * 4 + outputs * each
    assert training_activation_bytes(network, (2, 5, 4), images, 7) == expected * NUMBER


def test_a_frozen_layer_saves_nothing_and_a_frozen_network_has_no_step():
    network = plain(1)
    network[0].requires_grad_(False)
    # of the features only the map under the linear layer is left, the same bytes; without it nothing
    assert training_activation_bytes(network, (2, 5, 4), 11, 7) == (11 * 60 + 11 * 7 + 1) * NUMBER
    assert training_activation_bytes(network.requires_grad_(False), (2, 5, 4), 11, 7) == 0


def test_local_learning_needs_as_much_at_any_depth_and_its_twin_does_not():
    def peak(kind, depth):
        network = kind.build(8, (8, 8), 5, WIDTHS, depth=depth, pool_every=99)
        return training_activation_bytes(network, (8, 8, 8), batch_size=20, num_classes=5)

    assert peak(PrimeNetwork, 6) <= 1.02 * peak(PrimeNetwork, 2)
    two, four, six = (peak(EndToEndNetwork, depth) for depth in (2, 4, 6))
    assert six - four == four - two > two / 3


def test_measuring_leaves_network_and_generator_as_they_were():
    network = PrimeNetwork.build(2, (8, 8), 3, WIDTHS)
    random = nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Linear(32, 3))
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    training_activation_bytes(random, (2, 4, 4), 5, 3)
    training_activation_bytes(network.eval(), (2, 8, 8), 5, 3)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    ("in_shape", "options", "message"),
    [
        ((2, 5, 4), {"batch_size": 1}, "batch_size=1 must be at least 2 images"),
        ((2, 5, 4), {"num_classes": 0}, "num_classes=0 must be at least 1"),
        ((2, 5, 4), {"num_classes": 8}, "in_shape=\\(2, 5, 4\\) with num_classes=8: Target 7 is out of bounds"),
        ((1, 5, 4), {}, "network cannot train on images of in_shape=\\(1, 5, 4\\) with num_classes=10"),
    ],
)
def test_what_cannot_be_measured_is_refused(in_shape, options, message):
    with pytest.raises(ValueError, match=message):
        training_activation_bytes(plain(1), in_shape, **options)
