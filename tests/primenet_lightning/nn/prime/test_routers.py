"""What each router chooses, by hand on made-up losses and maps."""

from collections import Counter
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from primenet_lightning import Architecture, Capsule, EndToEndNetwork, PrimeBlock, PrimeNetwork, local_targets
from primenet_lightning.nn.prime.routers import (
    ROUTERS,
    Commit,
    Concatenate,
    Fixed,
    Gate,
    LeastLoss,
    Mean,
    RandomChoice,
    RouterName,
    Settle,
    build_router,
)

MAPS = [torch.full((2, 1, 1, 1), float(value)) for value in (1, 2, 6)]
X = torch.zeros(2, 3, 4, 4)


def test_least_loss_takes_each_batch_by_itself():
    router = LeastLoss()
    assert [router.route(losses) for losses in [(3, 1, 2), (1, 3, 2), (2, 2, 2)]] == [1, 0, 0]
    assert router.select(X, MAPS, 1)[0] is MAPS[1]


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
    block, (x, target) = _block(Settle(decay=0.0, hysteresis=0.0)), _batch()
    for _ in range(20):
        block(x, target)
    other = (block.router.leader + 1) % 3
    block.router.route([0.0 if index == other else 1.0 for index in range(3)])
    assert block.history.majority() != (other,)
    block.eval()
    torch.testing.assert_close(block(x), block.evaluate(x, target, other).features)


def test_commit_keeps_for_good_what_led_at_the_end_of_its_warm_up():
    router = Commit(warm_up=3, decay=0.0, hysteresis=0.0)
    taken = [router.route(losses) for losses in [(1, 2), (2, 1)]]
    assert (taken, router.committed) == ([0, 1], None)
    assert (router.route((3, 1)), router.committed) == (1, 1)
    assert [router.route((0, 9)) for _ in range(5)] == [1] * 5


def test_blocks_commit_one_after_the_other():
    assert [build_router("commit", index, {"warm_up": 10}).warm_up for index in range(3)] == [10, 20, 30]


def test_state_of_a_router_survives_a_checkpoint_bit_for_bit():
    router, again = Commit(warm_up=3), Commit(warm_up=3)
    for losses in [(0.1, 1 / 3), (1 / 7, 0.2), (0.3, 0.1)]:
        router.route(losses)
    again.load_state_dict(router.state_dict())
    assert (again.averages, again.seen, again.leader, again.committed) == (router.averages, 3, 0, 0)


def test_concatenate_and_mean_by_hand():
    assert Concatenate().select(X, MAPS, 1)[0][0].flatten().tolist() == [1, 2, 6]
    assert Concatenate().out_channels(8, capsules=3) == 24
    assert Mean().select(X, MAPS, 1)[0].flatten().tolist() == [3, 3]
    assert Mean().out_channels(8, capsules=3) == 8


class _Scores(nn.Module):
    """Scores that a test chooses, instead of a gate's classifier."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, x):
        return self.scores[: len(x)]


def _gate(per, scores):
    gate = Gate(per)
    gate.build((3, 4, 4), capsules=3)
    gate.classifier = _Scores(scores)
    return gate


def test_gate_by_sample_takes_each_image_by_itself():
    gate = _gate("sample", [[0.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert gate.select(X, MAPS, 0)[0].flatten().tolist() == [2, 6]


def test_gate_by_batch_takes_the_largest_mean():
    gate = _gate("batch", [[0.0, 1.0, 0.0], [0.0, 1.0, 1.5]])
    chosen, index = gate.select(X, MAPS, 0)
    assert (index, chosen.flatten().tolist()) == (1, [2, 2])


def test_gate_by_batch_decides_by_the_mean_over_processes():
    gate = _gate("batch", [[0.0, 1.0, 0.0]] * 2)
    assert gate.select(X, MAPS, 0, average=lambda scores: scores + torch.tensor([0.0, 0.0, 2.0]))[1] == 2


@pytest.mark.parametrize(("per", "best"), [("sample", [2, 1]), ("batch", [1, 1])])
def test_gate_learns_to_name_the_least_loss(per, best):
    """Losses by capsule and image: the first image has its least in capsule 2, the batch in capsule 1."""
    losses, scores = torch.tensor([[3.0, 3.0], [1.0, 0.0], [0.5, 2.0]]), torch.randn(2, 3)
    gate = _gate(per, scores.tolist())
    expected = -scores.log_softmax(1)[torch.arange(2), torch.tensor(best)].mean()
    torch.testing.assert_close(gate.loss(X, losses), expected)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gate_computes_at_inference_what_it_selects_of_all_maps(per):
    torch.manual_seed(0)
    gate = Gate(per)
    gate.build((3, 4, 4), capsules=3)
    x, layers = torch.randn(20, 3, 4, 4), [nn.Conv2d(3, 2, 1) for _ in range(3)]
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    taken = gate(x).argmax(1).bincount(minlength=3)
    inferred = gate.infer(x, layers, 0)
    # each image, or the batch, is computed once
    assert sum(seen) == 20
    assert per == "batch" or (sorted(seen) == sorted(n for n in taken.tolist() if n) and len(seen) > 1)
    torch.testing.assert_close(inferred, gate.select(x, [layer(x) for layer in layers], 0)[0])


def _block(router, in_channels=2):
    torch.manual_seed(0)
    return PrimeBlock.multiscale(
        in_channels, (8, 8), 3, reduce_channels=2, channels=4, projection_channels=3, router=router
    )


def _batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 2, 8, 8, generator=generator), torch.arange(12) % 3


def test_gate_has_a_loss_of_its_own_that_reaches_nothing_else():
    block, (x, target) = _block(Gate()), _batch()
    output = block(x, target)
    assert list(output.losses) == ["k3", "k5", "k7", "projection", "gate"]
    assert "gate" not in output.logits
    output.losses["gate"].backward()
    reached = {name.split(".")[0] for name, p in block.named_parameters() if p.grad is not None}
    assert reached == {"router"}
    # by hand: the capsules' cross-entropies, image by image
    each = torch.stack([functional.cross_entropy(output.logits[k], target, reduction="none") for k in block.capsules])
    expected = functional.cross_entropy(block.router(x), each.argmin(0))
    torch.testing.assert_close(output.losses["gate"], expected)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gate_never_sees_a_label_in_evaluation(per):
    """With other labels the same maps go on; nor would it matter if the losses were others."""
    block, (x, target) = _block(Gate(per)).eval(), _batch()
    with torch.no_grad():
        without = block(x)
        features = [block(x, labels).features for labels in (target, (target + 1) % 3, torch.zeros_like(target))]
        with local_targets(target):
            inside = block(x)
    for seen in (*features, inside):
        torch.testing.assert_close(seen, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "gate"])
def test_label_free_forward_is_what_evaluation_hands_on(name):
    block, (x, target) = _block(build_router(name)), _batch()
    block(x, target)
    block.eval()
    torch.testing.assert_close(block(x), block(x, target).features)
    assert block(x).shape[1:] == block.out_shape


def test_what_is_handed_on_carries_no_gradient():
    for name in ROUTERS:
        block, (x, target) = _block(build_router(name)), _batch()
        assert not block(x.requires_grad_(), target).features.requires_grad, name


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_gate_learns_the_same_whenever_it_goes_backward(per):
    """At once, before the next block runs, or with all others."""
    gradients = []
    for at_once in (True, False):
        block, (x, target) = _block(Gate(per)), _batch()
        output = block.learn(x, target, on_loss=(lambda _, loss: loss.backward()) if at_once else None)
        assert output.losses["gate"].requires_grad != at_once
        if not at_once:
            sum(output.losses.values()).backward()
        gradients.append({name: p.grad for name, p in block.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_gate_takes_no_images_and_is_exported():
    block, (x, _) = _block(Gate()).eval(), _batch()
    assert block(x[:0]).shape == (0, *block.out_shape)
    with torch.no_grad():
        exported = torch.export.export(block, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), block(x))


def test_fixed_hands_on_its_capsule_whatever_the_losses_and_all_learn():
    block, (x, target) = _block(Fixed(capsule=1)), _batch()
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
    network = _network("fixed", {"capsule": 2})
    assert network.inference_route() == (2, 2)
    assert [stage.route for stage in network.stages(*_batch())] == [2, 2, None]
    network.inference_routing = 0  # what is asked for goes first
    assert network.inference_route() == (0, 0)


@pytest.mark.parametrize("capsule", [3, -1])
def test_fixed_is_refused_where_there_is_no_such_capsule(capsule):
    message = f"capsule={capsule} names none of the block's 3 capsules; count from 0, to 2 at most"
    with pytest.raises(ValueError, match=message):
        _network("fixed", {"capsule": capsule})


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
        return [[stage.route for stage in network.stages(*_batch())] for _ in range(batches)]

    network, again = _network("random"), _network("random")
    routes(network, 5)
    again.load_state_dict(network.state_dict())
    assert again.inference_route() == network.inference_route()
    assert routes(again, 10) == routes(network, 10)


def test_random_infers_without_labels_by_the_route_taken_most():
    network = _network("random", {"seed": 3})
    taken = Counter(tuple(stage.route for stage in network.stages(*_batch()))[:2] for _ in range(12))
    most = max(taken.values())
    assert network.inference_route() == min(route for route, count in taken.items() if count == most)
    network.eval()
    torch.testing.assert_close(network(_batch()[0]), network(_batch()[0], network.inference_route()))


@pytest.mark.parametrize("name", ["fixed", "random"])
def test_end_to_end_would_leave_unrouted_capsules_untrained(name):
    with pytest.raises(ValueError, match=f"router='{name}' .* one capsule a block"):
        _network(name, kind=EndToEndNetwork)


def _network(router, options=None, kind=PrimeNetwork):
    torch.manual_seed(0)
    widths = Architecture(2, 4, 3, 5, "pooled", 1, router=router, router_options=options)
    return kind.build(2, (8, 8), 3, widths, depth=2)


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
