"""MSDNet against counted tables, a forward written out layer by layer, and the closed form of its gradients."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning.baselines.msdnet.layers import bottlenecked
from primenet_lightning.baselines.msdnet.network import MSDNetwork
from primenet_lightning.baselines.msdnet.plan import Plan
from primenet_lightning.nn.exits.costs import exit_costs
from primenet_lightning.nn.exits.network import classify
from primenet_lightning.nn.exits.thresholds import confidences

TINY = Plan(exits=3, scales=2, channels=4, growth=2, exit_channels=6)
"""Six layers, the last three of one scale."""

TABLE = [
    (
        Plan(exits=3),
        851_866,
        [6_781_184, 13_612_544, 19_919_616],
        [5_905_664, 11_960_832, 19_919_616],
    ),
    (
        Plan(exits=5),
        2_020_874,
        [6_781_184, 14_185_984, 27_244_288, 41_327_616, 58_030_336],
        [5_905_664, 12_622_336, 24_468_224, 40_123_392, 58_030_336],
    ),
    (
        Plan(exits=7, base=4, step=2, spacing="even"),
        2_986_690,
        [14.96e6, 25.24e6, 36.75e6, 45.93e6, 56.88e6, 66.46e6, 75.41e6],
        [13.24e6, 23.23e6, 35.73e6, 44.76e6, 55.56e6, 66.46e6, 75.41e6],
    ),
]
"""Parameters and multiply-adds, full and lazy, of the specification; of the last in units of 10,000."""


@pytest.mark.parametrize(("plan", "parameters", "full", "lazy"), TABLE, ids=["3 exits", "5 exits", "7 exits"])
def test_parameters_and_costs_are_those_of_the_table(plan, parameters, full, lazy):
    network = MSDNetwork(3, 10, plan)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    unit = 1 if plan.exits < 7 else 10_000
    assert [round(cost / unit) for cost in exit_costs(network, (3, 32, 32))] == [round(cost / unit) for cost in lazy]
    network.plan = dataclasses.replace(plan, lazy=False)
    assert [round(cost / unit) for cost in exit_costs(network, (3, 32, 32))] == [round(cost / unit) for cost in full]


def test_ten_exits_have_the_parameters_and_costs_of_the_table():
    plan = Plan(exits=10, base=4, step=2, spacing="even")
    network = MSDNetwork(3, 10, plan)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_839_544
    lazy = exit_costs(network, (3, 32, 32))
    assert [round(cost / 1e4) for cost in (lazy[0], lazy[-1])] == [1324, 12_097]
    network.plan = dataclasses.replace(plan, lazy=False)
    full = exit_costs(network, (3, 32, 32))
    assert [round(cost / 1e4) for cost in (full[0], full[-1])] == [1496, 12_097]


@pytest.mark.parametrize(("size", "scales"), [(32, 3), (28, 3), (8, 2), (9, 2), (8, 1), (33, 4)])
def test_images_of_any_size(size, scales):
    network = MSDNetwork(1, 4, dataclasses.replace(TINY, scales=scales)).eval()
    assert [tuple(logits.shape) for logits in network(torch.zeros(2, 1, size, size))] == [(2, 4)] * 3


def test_convolutions_begin_as_he_et_al_draw_them():
    torch.manual_seed(0)
    for module in MSDNetwork(3, 10, Plan(exits=3)).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 3000:
            spread = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(spread, rel=0.1)
        if isinstance(module, nn.Linear):
            assert not module.bias.any()


def unsure(plan=TINY, equilibrium=None):
    """Batch norms that have seen images, and logits that are spread out."""
    torch.manual_seed(2)
    network = MSDNetwork(1, 4, plan, equilibrium)
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(16, 1, 8, 8))
        for scale, classifier in zip((2.0, 3.0, 4.0), network.classifiers, strict=True):
            classifier.weight *= scale
    return network.eval()


def layer_by_layer(network, x):
    """The paper's figure: every scale of a layer from the layer before; exits on the coarsest scale."""
    plan, maps, answers = network.plan, [], []
    for convolve in network.first:
        maps.append(convolve(maps[-1] if maps else x))
    for number, layer in enumerate(network.layers, 1):
        before = list(maps)
        for scale, growth in layer.items():
            scale = int(scale)
            new = [before[scale]]
            if growth.down is not None:
                new.append(growth.down(before[scale - 1]))
            maps[scale] = torch.cat([*new, growth.same(before[scale])], 1)
            if growth.transition is not None:
                maps[scale] = growth.transition(maps[scale])
        if number in plan.ends:
            place = plan.ends.index(number)
            features = network.exits[place][:2](maps[-1]).mean((2, 3))
            answers.append(network.classifiers[place](features))
    return answers


@pytest.mark.parametrize("scales", [1, 2, 3])
@torch.no_grad()
def test_lazy_and_full_forward_are_that_written_out(scales):
    network, x = unsure(dataclasses.replace(TINY, scales=scales)), torch.randn(3, 1, 8, 8)
    lazy = network(x)
    network.plan = dataclasses.replace(network.plan, lazy=False)
    for one, other, third in zip(lazy, network(x), layer_by_layer(network, x), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, third)


def test_a_bottleneck_is_no_wider_than_its_input():
    shapes = [tuple(layer.weight.shape) for layer in bottlenecked(16, 6, 4) if isinstance(layer, nn.Conv2d)]
    assert shapes == [(16, 16, 1, 1), (6, 16, 3, 3)]


@torch.no_grad()
def test_who_leaves_has_the_answer_of_the_full_forward():
    network, images = unsure(), torch.randn(40, 1, 8, 8)
    answers = network(images)
    thresholds = [float(confidences(logits).quantile(0.5)) for logits in answers]  # between two images
    logits, taken = classify(network, images, thresholds)
    for image in range(40):
        alone = network(images[image : image + 1])
        place = 0
        while place < 2 and alone[place].softmax(1).max() < thresholds[place]:
            place += 1
        assert taken[image] == place
        torch.testing.assert_close(logits[image], alone[place][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[image], answers[place][image], rtol=1e-4, atol=1e-5)
    assert {*taken.tolist()} == {0, 1, 2}
    assert classify(network, images, [0, 0, 0])[1].tolist() == [0] * 40
    assert classify(network, images, [1.1] * 3)[1].tolist() == [2] * 40


# -- gradient equilibrium


def gradients(network, loss):
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return dict(zip([name for name, _ in network.named_parameters()], found, strict=True))


def block_of(name, plan):
    """Index of the exit before which a parameter of the trunk stands; None of a parameter inside an exit."""
    if name.startswith(("exits.", "classifiers.")):
        return None
    if name.startswith("first."):
        return 0
    layer = int(name.split(".")[1]) + 1
    return next(index for index, end in enumerate(plan.ends) if layer <= end)


def losses_of(equilibrium, plan):
    torch.manual_seed(4)
    network = MSDNetwork(1, 4, plan, equilibrium).double()
    x, target = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 4
    return network, [functional.cross_entropy(logits, target) for logits in network(x)]


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_in_equilibrium_of_all_scales_each_block_learns_from_the_mean_of_the_exits_behind_it(scales):
    plan = dataclasses.replace(TINY, scales=scales)
    network, losses = losses_of("all", plan)
    balanced = gradients(network, sum(losses))
    network, losses = losses_of(None, plan)
    plain = gradients(network, sum(losses))
    for index in range(3):
        network, losses = losses_of(None, plan)
        mean = gradients(network, sum(losses[index:]) / (3 - index))
        for name, gradient in balanced.items():
            block = block_of(name, plan)
            if block is None:
                torch.testing.assert_close(gradient, plain[name], rtol=0, atol=1e-12)
            elif block == index:
                torch.testing.assert_close(gradient, mean[name], rtol=0, atol=1e-12)


def test_equilibrium_of_the_coarsest_scale_is_that_of_all_where_there_is_one_and_another_where_there_are_two():
    for scales, same in ((1, True), (2, False)):
        plan = dataclasses.replace(TINY, scales=scales)
        coarsest, everywhere = (
            gradients(network, sum(losses)) for network, losses in (losses_of("coarsest", plan), losses_of("all", plan))
        )
        equal = [torch.allclose(coarsest[name], everywhere[name], rtol=0, atol=1e-13) for name in coarsest]
        assert all(equal) == same
        assert any(equal)


def test_equilibrium_of_the_coarsest_scale_by_hand():
    """Of two exits: gradients that arrive at the first one's coarsest maps are halved, those of finer maps are not."""
    plan = dataclasses.replace(TINY, exits=2, lazy=False)  # all maps of the first block are there at its end
    network, losses = losses_of("coarsest", plan)
    balanced = gradients(network, sum(losses))
    network, _ = losses_of(None, plan)
    torch.manual_seed(4)
    MSDNetwork(1, 4, plan)  # draws what was drawn before the images
    x, target = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 4
    maps, features = network.features(0, (x,))
    first = functional.cross_entropy(network.classifiers[0](features), target)
    second = functional.cross_entropy(network.advance(1, maps)[1], target)
    (from_first,) = torch.autograd.grad(first, maps[-1:], retain_graph=True)
    *finer, from_second = torch.autograd.grad(second, maps, retain_graph=True)
    trunk = [(name, parameter) for name, parameter in network.named_parameters() if block_of(name, plan) == 0]
    arriving = [*finer, (from_first + from_second) / 2]
    by_hand = torch.autograd.grad(maps, [parameter for _, parameter in trunk], arriving)
    for (name, _), gradient in zip(trunk, by_hand, strict=True):
        torch.testing.assert_close(balanced[name], gradient, rtol=0, atol=1e-12)


def test_equilibrium_changes_no_answer_and_one_exit_is_plain_training():
    for kind in ("coarsest", "all"):
        network, losses = losses_of(kind, TINY)
        assert all(torch.equal(one, other) for one, other in zip(losses, losses_of(None, TINY)[1], strict=True))
        network, losses = losses_of(kind, dataclasses.replace(TINY, exits=1, base=3))
        plain, plain_losses = losses_of(None, dataclasses.replace(TINY, exits=1, base=3))
        balanced, expected = gradients(network, losses[0]), gradients(plain, plain_losses[0])
        assert all(torch.equal(balanced[name], expected[name]) for name in expected)


def test_every_parameter_learns_and_belongs_to_one_exit():
    for scales in (1, 2, 4):
        network, losses = losses_of(None, dataclasses.replace(TINY, scales=scales))
        assert all(gradient is not None and gradient.any() for gradient in gradients(network, sum(losses)).values())
        owned = [id(p) for index in range(3) for part in network.parts(index) for p in part.parameters()]
        assert sorted(owned) == sorted(map(id, network.parameters()))


def test_an_unknown_equilibrium_is_refused():
    with pytest.raises(ValueError, match="equilibrium='finest' is unknown; use 'coarsest' or 'all', or None"):
        MSDNetwork(1, 4, TINY, "finest")
