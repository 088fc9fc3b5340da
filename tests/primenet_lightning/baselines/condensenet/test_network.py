"""Counts of the published networks to the unit; conversion; loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning import count_cost, count_module
from primenet_lightning.analysis.cost import count_inference
from primenet_lightning.baselines.condensenet.network import SIZES, Architecture, CondenseNetwork, architecture
from primenet_lightning.nn.whole import WholeNetwork

SMALL = Architecture((2, 2), (4, 8))

# parameters; multiply-adds of convolutions; those of the dense layer
PUBLISHED = {
    "50": (216_506, 27_181_056, 4_640),
    "74": (405_466, 49_201_152, 6_880),
    "86": (520_202, 62_373_888, 8_000),
    "light94": (330_506, 116_561_920, 4_280),
}


def small(**options):
    """A network that has seen images; its batch norms have statistics and biases."""
    torch.manual_seed(1)
    network = CondenseNetwork(2, 5, SMALL, **({"groups": 4, "condensation": 4} | options))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias, 0, 0.3)
    for _ in range(3):
        network(torch.randn(8, 2, 8, 8) + 0.5)
    return network


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_converted_network_has_the_published_cost(size):
    network = CondenseNetwork(3, 10, architecture(size)).deployed().eval().to("meta")
    parameters, convolutions, dense = PUBLISHED[size]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() == 2 * (convolutions + dense)


@pytest.mark.parametrize(("size", "parameters"), [("122", 945_434), ("182", 4_221_946)])
def test_parameters_of_the_large_ones(size, parameters):
    with torch.device("meta"):
        network = CondenseNetwork(3, 10, architecture(size))
    given_up = sum(layer.weight.numel() * 3 // 4 for layer in network.learned_layers)
    assert sum(parameter.numel() for parameter in network.parameters()) - given_up == parameters


def adds_after_conversion(network):
    """Multiply-adds of convolutions on 32x32 images, a quarter of those of the learned ones, in millions."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    learned, side = 0, {}
    for layer in network.learned_layers:
        layer.register_forward_hook(lambda layer, _, output: side.__setitem__(layer, output.shape[-1]))
    network(torch.zeros(1, 3, 32, 32, device="meta"))
    for layer in network.learned_layers:
        learned += layer.weight.numel() * side[layer] ** 2
    convolutions = counter.get_total_flops() / 2 - network.classifier.linear.weight.numel()
    return (convolutions - learned * 3 / 4) / 1e6


@pytest.mark.parametrize(
    ("shape", "millions"),
    [(architecture("122"), 110.54), (architecture("182"), 493.90)],
)
def test_multiply_adds_of_the_large_ones(shape, millions):
    with torch.device("meta"):
        network = CondenseNetwork(3, 10, shape)
    assert adds_after_conversion(network) == pytest.approx(millions, abs=0.005)


def test_before_it_condenses_it_costs_what_the_dense_network_costs():
    with torch.device("meta"):
        network = CondenseNetwork(3, 10, architecture("86"))
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, 32, 32, device="meta"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_451_594
    assert counter.get_total_flops() / 2e6 == pytest.approx(173.9, abs=0.05)


def test_grey_images_of_28_pixels():
    """28, 14 and 7 pixels: the last pooling is over the whole map, whatever its size."""
    network = CondenseNetwork(1, 10, architecture("50")).eval()
    sides = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert {*sides} == {28, 14, 7}


def test_two_networks_know_nothing_of_each_other():
    one, other, images = small(), small(), torch.randn(4, 2, 8, 8)
    one.condense(0.5)
    assert (one.is_condensed, other.stage) == (True, 0)
    before = other.eval()(images)
    one.train()(images)
    assert torch.equal(other(images), before)


def test_depths_are_in_the_names():
    for size, shape in SIZES.items():
        depth = 2 * sum(shape.layers) + (4 if shape.light else 2)
        assert f"{depth}" == size.removeprefix("light")


def test_halving_the_classifier():
    network = CondenseNetwork(3, 10, architecture("86"), halve_classifier=True).deployed()
    assert sum(parameter.numel() for parameter in network.parameters()) == 516_202


def test_the_cost_counted_is_that_of_the_converted_network_and_training_that_of_the_dense_one():
    network = CondenseNetwork(3, 10, architecture("50"))
    assert count_inference(WholeNetwork(network, (3, 32, 32), network.loss)) == 27_181_056 + 4_640
    assert network.stage == 0  # it was a copy
    network = CondenseNetwork(2, 5, SMALL, lasso=0.1)
    dense = count_module(CondenseNetwork(2, 5, SMALL, condensation=1), (2, 8, 8))
    cost = count_cost(WholeNetwork(network, (2, 8, 8), network.loss))
    assert cost.multiply_adds_training == dense.multiply_adds_training
    assert cost.parameters == dense.parameters - sum(layer.weight.numel() * 3 // 4 for layer in network.learned_layers)


@torch.no_grad()
def test_converted_and_masked_network_answer_alike_in_both_modes():
    network, images = small(), torch.randn(6, 2, 8, 8)
    network.condense(progress=0.5)
    assert network.is_condensed
    other = network.converted()
    torch.testing.assert_close(other(images), network(images), rtol=1e-5, atol=1e-5)  # training mode
    assert not other.learned_layers
    torch.testing.assert_close(other.eval()(images), network.eval()(images), rtol=1e-5, atol=1e-6)
    assert not any(part.training for part in network.converted().modules())
    assert torch.equal(other.converted()(images), other(images))  # nothing is left to do


@torch.no_grad()
def test_a_light_network_converts_too():
    torch.manual_seed(1)
    network = CondenseNetwork(2, 5, Architecture((2, 2), (4, 4), light=True))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias, 0, 0.3)
    for _ in range(3):  # the norms of the channels gathered are not those of the others
        network(torch.randn(8, 2, 8, 8) + 0.5)
    network.eval().condense(0.5)
    images = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(network.converted()(images), network(images), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_half_of_the_classifier_is_that_of_the_largest_weights():
    network = small(halve_classifier=True).eval()
    network.condense(0.5)
    linear = network.classifier.linear
    sizes = torch.arange(float(linear.in_features)) % 5 + 1
    linear.weight.copy_(sizes * torch.where(torch.rand(5, linear.in_features) > 0.5, 1, -1))
    images = torch.randn(3, 2, 8, 8)
    features = network.classifier[:-1](network.blocks(network.stem(images)))
    kept = set(sorted(range(len(sizes)), key=lambda j: (-sizes[j], j))[: len(sizes) // 2])
    mask = torch.tensor([j in kept for j in range(len(sizes))])
    expected = functional.linear(features * mask, linear.weight, linear.bias)
    torch.testing.assert_close(network.converted()(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("groups", "condensation"), [(4, 4), (2, 4), (4, 2)])
def test_lasso_until_the_last_stage(groups, condensation):
    """The last stage is the one before as many as the condensation has parts, however many groups there are."""
    network, target = small(lasso=0.01, groups=groups, condensation=condensation), torch.tensor([0, 1])
    logits = torch.randn(2, 5)
    plain = functional.cross_entropy(logits, target)
    last = condensation - 1
    for stage in range(last):
        network.condense(stage / (2 * last))
        assert network.stage == stage
        lasso = 0.0
        for layer in network.learned_layers:
            weight = layer.weight.flatten(1)
            for group in range(groups):
                alive = weight[group::groups] * layer.alive[group]  # what is given up counts as the floor
                lasso += alive.norm(dim=0).clamp(min=1e-3).sum().item()
        assert network.loss(logits, target).item() == pytest.approx(plain.item() + 0.01 * lasso, rel=1e-5)
    network.condense(0.5)
    assert network.loss(logits, target).item() == pytest.approx(plain.item())


def test_convolutions_begin_by_the_number_of_filters():
    torch.manual_seed(0)
    network = CondenseNetwork(3, 10, architecture("50"))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            expected = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not network.classifier.linear.bias.any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(size="85"), "size='85' is unknown; use one of '50', '74', '86'"),
        (dict(size="86", layers=[2, 2]), r"layers=\[2, 2\] and growth=\[8, 16, 32\] must have one number a block"),
        (dict(size="86", growth=[8, 0, 8]), "growth=0 must be at least 1"),
        (dict(size="86", layers=[2.5, 2, 2]), "layers=2.5 must be a whole number"),
        (dict(size="86", layers=2), r"layers=2 must be a list of one number a block, such as \[14, 14, 14\]"),
        (dict(size="86", layers=[], growth=[]), "must have one number a block"),
    ],
)
def test_sizes_that_are_none(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        architecture(**arguments)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(groups=3), "groups=3 does not divide the 8 input channels"),
        (dict(condensation=0), "condensation=0 must be at least 1"),
        (dict(groups="4"), "groups='4' must be a whole number"),
        (dict(dropout=1.0), "dropout=1.0 is out of range"),
        (dict(lasso=-1e-5), "lasso=-1e-05 must be at least 0"),
        (dict(learned=False, groups=8), "groups=8"),
    ],
)
def test_options_that_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        CondenseNetwork(2, 5, SMALL, **options)
