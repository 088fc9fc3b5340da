"""Capsules that a router decides against leave no memory, no gradient, no optimizer state and no checkpoint entry."""

import gc
import weakref

import pytest
import torch
from stepping import run_stages
from tiny import TinyData, make_model, make_trainer, same, state
from torch import nn

from primenet_lightning import Capsule, PrimeBlock, PrimeNetwork
from primenet_lightning.analysis.cost import count_cost
from primenet_lightning.nn.prime.architecture import Architecture
from primenet_lightning.nn.prime.lasting import Commit

COMMIT = dict(router="commit", router_options={"warm_up": 3, "decay": 0.0, "hysteresis": 0.0})


def make_block():
    return PrimeBlock.multiscale(
        2, (8, 8), 3, reduce_channels=2, channels=4, projection_channels=3, router=Commit(warm_up=1)
    )


def batch(count=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 8, 8, generator=generator), torch.arange(count) % 3


def fit(folder, epochs=1, model=None, max_steps=-1, **options):
    """Four batches an epoch; a block commits after three, the one above after six."""
    model = make_model(**(COMMIT | options)) if model is None else model
    trainer = make_trainer(folder, max_epochs=epochs, max_steps=max_steps)
    trainer.fit(model, TinyData(batch_size=20))
    return trainer, model


def test_pruned_capsules_hold_no_memory():
    block = make_block()
    dropped = {name: block.capsules[name] for name in ("k3", "k7")}
    held = [tensor for capsule in dropped.values() for tensor in (*capsule.parameters(), *capsule.buffers())]
    storages = [weakref.ref(tensor.untyped_storage()) for tensor in held]
    kept = sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in held if isinstance(p, nn.Parameter))
    block.router.commit(1)
    assert block.prune() == ["k3", "k7"]
    gc.collect()
    assert sum(p.numel() for p in block.parameters()) == kept
    # also through references that somebody else kept, as a DDP or a foreign optimizer does
    assert all(tensor.untyped_storage().nbytes() == 0 for tensor in held)
    assert all(storage() is None for storage in storages)
    assert not any("k3" in name or "k7" in name for name in block.state_dict())


def test_pruned_block_computes_what_it_routed_before():
    block, (x, target) = make_block(), batch()
    block(x, target)
    block.eval()
    before = block(x)
    assert block.prune()
    assert len(block.capsules) == 1
    torch.testing.assert_close(block(x), before, rtol=0, atol=0)
    block.train()
    output = block(x, target)
    assert (len(output.losses), output.route) == (2, 0)
    assert block.prune() == []


def test_pruned_capsules_get_no_gradient_and_leave_the_optimizer(tmp_path):
    trainer, model = fit(tmp_path, depth=2, epochs=2)
    assert [len(names) for names in model.network.capsule_names] == [1, 1]
    names = model.network.loss_names
    assert list(model.capsule_optimizers) == names
    assert len(names) == 4
    optimizer = trainer.optimizers[0]
    mine = {id(p) for p in model.network.parameters()}
    assert {id(p) for p in optimizer.state} == {id(p) for g in optimizer.param_groups for p in g["params"]} == mine


def test_pruning_changes_nothing_of_what_is_kept(tmp_path, monkeypatch):
    """The winner and the head learn as if the losers were still there, untouched by how they are dropped."""
    _, pruned = fit(tmp_path, epochs=3, depth=2)
    monkeypatch.setattr(PrimeNetwork, "prune", lambda self: [])
    _, whole = fit(tmp_path, epochs=3, depth=2)
    mine, theirs = state(pruned), state(whole)
    compared = [name for name in mine if "_extra_state" not in name]
    assert len(compared) < len(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in compared)


def test_pruning_waits_for_the_gradients_of_a_window(tmp_path):
    seen = []

    class Watched(Commit):
        def route(self, values):
            seen.append(len(values))
            return super().route(values)

    model = make_model(accumulate_grad_batches=2)
    model.network.prime_blocks[0].router = Watched(warm_up=1)
    fit(tmp_path, epochs=2, model=model)
    assert seen == [3, 3, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("schedule", ["cosine", "step", "one_cycle", "triangular"])
def test_schedules_go_on_after_pruning(schedule, tmp_path):
    """The learning rates at the end are those of a network that is not pruned."""
    rates = [
        {
            group["name"]: group["lr"]
            for group in fit(tmp_path, 2, schedule=schedule, **options)[0].optimizers[0].param_groups
        }
        for options in ({}, {"router": "settle", "router_options": None})
    ]
    assert len(rates[0]) == 2 < len(rates[1])
    assert rates[0] == {name: rates[1][name] for name in rates[0]}


def test_checkpoint_of_before_the_commitment_brings_the_capsules_back(tmp_path):
    """As after a fit, when the best checkpoint is tested, which may be older than the commitment."""
    early, late = tmp_path / "early.ckpt", tmp_path / "late.ckpt"
    trainer, model = fit(tmp_path, depth=2, max_steps=1)
    trainer.save_checkpoint(early)
    before = state(model)
    trainer, model = fit(tmp_path, epochs=2, depth=2)
    trainer.save_checkpoint(late)
    pruned = state(model)
    trainer.test(model, TinyData(batch_size=20), ckpt_path=early, weights_only=True, verbose=False)
    assert same(state(model), before)
    trainer.test(model, TinyData(batch_size=20), ckpt_path=late, weights_only=True, verbose=False)
    assert same(state(model), pruned)
    again = type(model).load_from_checkpoint(late, weights_only=True)
    assert same(state(again), pruned)


def test_plain_torch_loads_a_pruned_network_too():
    widths = Architecture(2, 4, 3, 5, "flatten", 1, router="commit", router_options={"warm_up": 1})
    one, other = (PrimeNetwork.build(2, (8, 8), 3, widths, depth=2) for _ in range(2))
    x, target = batch()
    for _ in range(2):
        list(run_stages(one, x, target))
    assert len(one.prune()) == 4
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other.eval()(x), one.eval()(x), rtol=0, atol=0)
    assert count_cost(other) == count_cost(one)


def test_capsules_taken_back_are_in_the_modes_of_the_block():
    one, other = make_block().double(), make_block().double()
    x, target = batch()
    one(x.double(), target)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.router.commit(1)
    one.prune()
    one.eval().load_state_dict(before)
    other.eval().load_state_dict(before)
    assert not any(part.training for part in one.modules())
    torch.testing.assert_close(one(x.double()), other(x.double()), rtol=0, atol=0)


def test_what_is_shared_with_the_winner_stays():
    stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))

    def capsule():
        own = nn.Conv2d(4, 4, 1)
        return Capsule(nn.Sequential(stem, own), nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 3)))

    block = PrimeBlock((2, 8, 8), {"a": capsule(), "b": capsule()}, None, router=Commit(warm_up=1))
    block.router.commit(0)
    assert block.prune() == ["b"]
    assert block(*batch()).features.shape == (12, 4, 8, 8)


def test_another_router_does_not_take_a_pruned_checkpoint():
    widths = dict(reduce_channels=2, channels=4, projection_channels=3)
    committed = make_block()
    committed.router.commit(0)
    committed.prune()
    paper = PrimeBlock.multiscale(2, (8, 8), 3, **widths)
    with pytest.raises(RuntimeError, match="Missing key"):
        paper.load_state_dict(committed.state_dict())


def test_route_of_inference_is_the_one_that_was_kept():
    widths = Architecture(2, 4, 3, 5, "flatten", 1, router="commit", router_options={"warm_up": 2})
    network, (x, _target) = PrimeNetwork.build(2, (8, 8), 3, widths, depth=2), batch()
    network.history.append((0, 0))
    for block, losses in zip(network.prime_blocks, [(3, 2, 1), (2, 1, 3)], strict=True):
        for _ in range(4):
            block.router.route(losses)
    assert network.inference_route() == (2, 1)  # whatever the history says
    before = network.eval()(x)
    network.prune()
    assert network.inference_route() == (0, 0)
    torch.testing.assert_close(network(x), before, rtol=0, atol=0)


def test_fixing_a_capsule_that_may_be_pruned_is_refused():
    with pytest.raises(ValueError, match="inference_routing=1 fixes capsules that router='commit' may prune"):
        make_model(inference_routing=1, **COMMIT)


@pytest.mark.parametrize("mode", [0, "oracle", "best_validation", "min_entropy"])
def test_choosing_where_all_maps_go_on_is_refused(mode):
    with pytest.raises(ValueError, match="chooses one capsule per block, but router='concatenate' makes its own of"):
        make_model(inference_routing=mode, router="concatenate")
