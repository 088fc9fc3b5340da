import itertools
import weakref
from typing import ClassVar

import pytest
import torch
from stepping import run_stages
from torch import nn

from primenet_lightning import (
    ClassifierHead,
    PrimeBlock,
    PrimeNetwork,
    Projection,
    architecture,
    conv_capsules,
)
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.architecture import Architecture

SMALL = Architecture(2, 4, 3, 5, "flatten", stride=1)


def build(depth=1, size=8, **options):
    return PrimeNetwork.build(2, (size, size), 3, SMALL, depth=depth, **options)


@pytest.fixture
def batch():
    return torch.randn(6, 2, 16, 16), torch.randint(3, (6,))


def touched(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_each_loss_trains_its_learner_alone(batch):
    network = build(depth=2, size=16)
    names = {id(p): name for name, p in network.named_parameters()}
    learners = network.learners()
    assert list(learners) == network.loss_names
    assert sorted(names[id(p)] for ps in learners.values() for p in ps) == sorted(names.values())
    for stage in run_stages(network, *batch):
        for name, loss in stage.losses.items():
            network.zero_grad()
            loss.backward()
            assert touched(network) == {names[id(p)] for p in learners[name]}, name


def test_the_last_projection_belongs_to_the_head():
    network = build(depth=2, size=16)
    names = {id(p): name for name, p in network.named_parameters()}
    head = {names[id(p)] for p in network.learners()["head"]}
    assert {name for name in head if not name.startswith("head.")} == {
        "blocks.1.projection.1.weight",
        "blocks.1.projection.1.bias",
    }


def test_stages_chain_detached_blocks_written_out_by_hand(batch):
    network = build(depth=2, size=16).double()
    x = batch[0].double()
    outputs = []
    for stage in run_stages(network, x, batch[1]):
        outputs.append(stage)
    first = network.blocks[0](x, batch[1])
    routed, _ = network.blocks[0].capsule(first.route)(x)
    pooled = nn.functional.max_pool2d(torch.cat([routed, network.blocks[0].projection(x)], 1), 2)
    torch.testing.assert_close(first.features, pooled)
    second = network.blocks[1](pooled, batch[1])
    logits = network.head(second.features)
    assert [stage.name for stage in outputs] == ["block0", "block1", "head"]
    assert [stage.route for stage in outputs] == [first.route, second.route, None]
    torch.testing.assert_close(outputs[2].logits["head"], logits)
    torch.testing.assert_close(outputs[1].losses["block1.k5"], second.losses["block1.k5"])


class Saved:
    """An activation that autograd keeps for the backward."""

    alive: ClassVar = weakref.WeakSet()

    def __init__(self, tensor):
        self.tensor = tensor
        Saved.alive.add(self)

    @classmethod
    def elements(cls):
        return sum(saved.tensor.numel() for saved in cls.alive)


def peak_of_saved_activations(depth, fused):
    network = build(depth=depth, size=64)
    peak, pending = 0, []
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        stages = run_stages(network, torch.randn(2, 2, 64, 64), torch.tensor([0, 1]))
        while (stage := next(stages, None)) is not None:
            peak = max(peak, Saved.elements())
            if fused:
                pending += stage.losses.values()
            else:
                sum(stage.losses.values()).backward()
            del stage
        if fused:
            sum(pending).backward()
    assert Saved.elements() == 0
    return peak


def test_activations_of_one_block_are_alive_at_a_time():
    """Block by block the peak is that of the first, largest block, whatever the depth; fused it grows."""
    assert peak_of_saved_activations(4, fused=False) == peak_of_saved_activations(2, fused=False)
    assert peak_of_saved_activations(4, fused=True) > peak_of_saved_activations(2, fused=True)
    assert peak_of_saved_activations(4, fused=True) > 1.2 * peak_of_saved_activations(4, fused=False)


def test_inference_follows_the_route_and_calls_nobody_else(batch):
    network = build(depth=2, size=16).eval()
    called = []
    for i, block in enumerate(network.blocks):
        for name, capsule in block.capsules.items():
            capsule.features.register_forward_hook(lambda *_, name=f"block{i}.{name}": called.append(name))
    for route in network.joint_routes():
        called.clear()
        network(batch[0], route)
        assert called == [names[index] for names, index in zip(network.capsule_names, route, strict=True)]


def test_majority_is_the_joint_route_of_training(batch):
    network = build(depth=2, size=16)
    taken = []
    for _ in range(15):
        taken.append(
            tuple(s.route for s in run_stages(network, torch.randn_like(batch[0]), batch[1]) if s.route is not None)
        )
    network.eval()
    counts = {route: taken.count(route) for route in taken}
    assert counts[network.inference_route()] == max(counts.values())
    torch.testing.assert_close(network(batch[0]), network(batch[0], network.inference_route()))


def test_route_survives_the_state_dict_and_bfloat16(batch):
    network = build(depth=2, size=16)
    for _ in range(5):
        list(run_stages(network, torch.randn_like(batch[0]), batch[1]))
    network.select_route(torch.arange(9, 0, -1))
    other = build(depth=2, size=16, inference_routing="best_validation").bfloat16()
    other.load_state_dict(network.bfloat16().state_dict())
    assert other.inference_route() == network.selected_route == (2, 2)
    other.inference_routing = "majority"
    assert other.inference_route() == network.inference_route()


def test_evaluation_agrees_with_the_forward_and_ignores_labels(batch):
    for routing in ("majority", "min_entropy", 1, (0, 2)):
        network = build(depth=2, size=16, inference_routing=routing).eval()
        for shift in range(3):
            seen = network.evaluate(batch[0], (batch[1] + shift) % 3)
            torch.testing.assert_close(seen.logits["head"], network(batch[0]))


def test_oracle_needs_labels_and_takes_the_least_loss(batch):
    network = build(depth=2, size=16, inference_routing="oracle").eval()
    with pytest.raises(ValueError, match=r"call network\.evaluate with the labels"):
        network(batch[0])
    seen = network.evaluate(*batch)
    for names, index in zip(network.capsule_names, seen.route, strict=True):
        losses = [seen.losses[name].item() for name in names]
        assert index == losses.index(min(losses))
    torch.testing.assert_close(seen.logits["head"], network(batch[0], seen.route))


def test_routes_are_judged_by_a_forward_along_each(batch):
    network = build(depth=2, size=16, inference_routing="best_validation").eval()
    verdicts = network.judge_routes(*batch)
    routes = list(itertools.product(range(3), range(3)))
    assert network.joint_routes() == routes
    answers = [network(batch[0], route) for route in routes]
    expected = [(logits.argmax(1) != batch[1]).sum().item() for logits in answers]
    assert verdicts[:, 0].tolist() == expected
    losses = torch.stack([nn.functional.cross_entropy(logits, batch[1], reduction="sum") for logits in answers])
    torch.testing.assert_close(verdicts[:, 1], losses)
    with pytest.raises(ValueError, match="inference_routing='best_validation' has selected no route yet"):
        network(batch[0])
    place = network.select_route(verdicts[:, 0])
    assert place == expected.index(min(expected))
    assert routes[place] == network.inference_route()


def test_a_route_is_remembered_whole_or_not_at_all(batch):
    """A NaN in the second block or the head must not leave half a route behind."""
    for where in ("blocks.1.capsules.k5.classifier.1.bias", "head.classifier.bias"):
        network = build(depth=2, size=16)
        list(run_stages(network, *batch))
        healthy = network.get_parameter(where).detach().clone()
        with torch.no_grad():
            network.get_parameter(where).fill_(torch.nan)
        with pytest.raises(NonFiniteError):
            list(run_stages(network, *batch))
        with torch.no_grad():
            network.get_parameter(where).copy_(healthy)
        assert len(network.history.ring) == 1
        list(run_stages(network, *batch))
        assert len(network.history.ring) == 2
        assert network.eval()(batch[0]).isfinite().all()


def test_a_given_route_must_lead_through_the_network(batch):
    network = build(depth=2, size=16).eval()
    for route in ((0,), (0, 1, 2), (0, 3), (0, -1)):
        with pytest.raises(ValueError, match="is no route through blocks"):
            network(batch[0], route)


@pytest.mark.parametrize("routing", ["majority", "min_entropy"])
def test_inference_exports_with_any_batch_size(routing, batch):
    network = build(depth=2, size=16, inference_routing=routing).eval()
    batches = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(network, (batch[0],), dynamic_shapes={"x": {0: batches}}, strict=False)
    more = torch.randn(9, 2, 16, 16)
    torch.testing.assert_close(program.module()(more), network(more))


@pytest.mark.parametrize(
    "where",
    [
        "blocks.1.capsules.k5.classifier.1.bias",
        "blocks.0.projection_classifier.1.bias",
        "head.classifier.bias",
    ],
)
def test_nan_names_block_and_capsule(batch, where):
    network = build(depth=2, size=16)
    with torch.no_grad():
        network.get_parameter(where).fill_(torch.nan)
    name = {"blocks.1": "block1.k5", "blocks.0": "block0.projection"}.get(where[:8], "head")
    with pytest.raises(NonFiniteError, match=f"the loss of {name} is nan"):
        list(run_stages(network, *batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(inference_routing=3), r"inference_routing=3 is no route through blocks of \[3, 3\] capsules"),
        (dict(inference_routing=(0,)), r"inference_routing=\(0,\) is no route"),
        (dict(inference_routing=(0, -1)), "is no route"),
        (dict(inference_routing="median"), "inference_routing='median' is unknown"),
        (dict(depth=0), "depth=0 must be at least 1"),
        (dict(depth=4), r"map_size=\(2, 2\) is too small for the head"),
        (
            dict(depth=6),
            r"image_size=\(16, 16\) is too small for depth=6: poolings leave nothing for block5; use larger",
        ),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**(dict(depth=2, size=16) | options))


def test_best_validation_refuses_too_many_routes():
    with pytest.raises(ValueError, match="would try 243 joint routes"):
        build(depth=5, size=64, inference_routing="best_validation")


def test_a_head_that_cannot_take_the_layout_of_maps_is_refused_with_the_remedy():
    class ByView(nn.Module):
        def forward(self, x):
            return x.view(len(x), -1)[:, :3]

    with pytest.raises(ValueError, match=r"the head cannot take .*Use \.reshape\(\.\.\.\) instead"):
        PrimeNetwork(build().prime_blocks, ByView())


def test_parts_that_do_not_fit_are_refused():
    def block(in_shape, projection=None, classifier=None):
        return PrimeBlock(in_shape, conv_capsules(in_shape[0], in_shape[1:], 3, channels=4), projection, classifier)

    with pytest.raises(ValueError, match=r"block1 was built for inputs of \(4, 8, 8\), but block0 .* give \(4, 4, 4\)"):
        PrimeNetwork([block((2, 8, 8)), block((4, 8, 8))], nn.Identity())
    with pytest.raises(ValueError, match="block0's projection has no classifier of its own"):
        PrimeNetwork([block((2, 8, 8), Projection(2, 3)), block((7, 4, 4))], nn.Identity())
    with pytest.raises(ValueError, match="the head cannot take the last block's output of shape"):
        PrimeNetwork([block((2, 8, 8))], ClassifierHead(9, (8, 8), 3))
    with pytest.raises(ValueError, match="at least one block"):
        PrimeNetwork([], nn.Identity())


def test_sizes_are_looked_up_by_name():
    assert architecture("paper", (28, 28)) == Architecture(32, 64, 64, 128, "flatten", 1)
    with pytest.raises(ValueError, match="size='large' is unknown; use 'paper' or 'compact'"):
        architecture("large", (28, 28))
