"""The end-to-end twin against plain torch."""

import pytest
import torch
from lightning.pytorch import Callback
from stepping import run_stages
from tiny import SMALL, SGDStep, TinyData, make_model, make_trainer, same, state
from torch import nn
from torch.nn import functional

from primenet_lightning import PrimeNetwork
from primenet_lightning.analysis.cost import count_cost
from primenet_lightning.nn.prime.architecture import Architecture
from primenet_lightning.nn.prime.twin import EndToEndNetwork

WIDTHS = Architecture(2, 4, 3, 5, "layers", 1, router="concatenate", local_loss="predsim")


def build(kind=EndToEndNetwork, **options):
    torch.manual_seed(4)
    return kind.build(2, (8, 8), 3, WIDTHS, kernel_sizes=(1, 3), depth=3, pool_every=(1,), **options)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 2, 8, 8, generator=generator), torch.arange(12) % 3


def plain(network, x):
    """The same network written out: no detach anywhere."""
    for i, block in enumerate(network.blocks):
        x = functional.max_pool2d(x, 2) if i == 2 else x
        maps = []
        for capsule in block.capsules.values():
            reduce, spatial, norm, activation = list(capsule.features)
            maps.append(activation(norm(spatial(reduce(x)))))
        pool, convolution, relu = list(block.projection)
        x = torch.cat([*maps, relu(convolution(pool(x)))], dim=1)
    return network.head(x)


def test_it_learns_what_plain_backpropagation_learns():
    network, (x, target) = build().double(), batch()
    (stage,) = run_stages(network, x.double(), target)
    stage.losses["head"].backward()
    mine = {name: p.grad for name, p in network.named_parameters()}
    network.zero_grad()
    functional.cross_entropy(plain(network, x.double()), target).backward()
    for name, p in network.named_parameters():
        assert p.grad.abs().max() > 0, name
        torch.testing.assert_close(mine[name], p.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_it_is_the_local_network_without_what_teaches_capsules():
    twin, local = build(), build(PrimeNetwork)
    assert not twin.local
    assert local.local
    mine, theirs = dict(twin.named_parameters()), dict(local.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in mine.items())
    teaching = set(theirs) - set(mine)
    assert teaching
    assert all("classifier" in name or ".loss." in name for name in teaching)
    x, _ = batch()
    torch.testing.assert_close(twin.eval()(x), local.eval()(x))
    costs = count_cost(twin), count_cost(local)
    assert costs[0].multiply_adds_inference == costs[1].multiply_adds_inference
    assert costs[0].parameters == sum(p.numel() for p in mine.values()) < costs[1].parameters


def test_it_trains_in_a_trainer_as_a_loop_does(tmp_path):
    options = SMALL | dict(router="mean", local=False, depth=2, head_optimizer=SGDStep(0.1))
    model, data = make_model(**options), TinyData(batch_size=20)
    reference = make_model(**options).network
    batches = []

    class Kept(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append(batch)

    trainer = make_trainer(tmp_path, [Kept()])
    trainer.fit(model, data)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for images, target in batches:
        optimizer.zero_grad()
        functional.cross_entropy(reference(images), target).backward()
        optimizer.step()
    for name, p in model.network.named_parameters():
        torch.testing.assert_close(p, reference.get_parameter(name), msg=name)
    results = trainer.test(model, data, verbose=False)[0]
    assert set(results) == {"test/accuracy", "test/error", "test/loss/head", "test/loss/total"}
    assert list(model.capsule_optimizers) == ["head"]


def test_it_comes_back_from_a_checkpoint(tmp_path):
    model = make_model(router="concatenate", local=False, depth=2)
    trainer = make_trainer(tmp_path)
    trainer.fit(model, TinyData(batch_size=20))
    trainer.save_checkpoint(tmp_path / "twin.ckpt")
    again = type(model).load_from_checkpoint(tmp_path / "twin.ckpt", weights_only=True)
    assert not again.network.local
    assert same(state(again), state(model))


@pytest.mark.parametrize("router", ["least_loss", "settle", "commit", "gate"])
def test_routers_that_need_local_losses_are_refused(router):
    with pytest.raises(ValueError, match=f"router='{router}' needs local losses, of which local=False has none"):
        make_model(router=router, local=False)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(2, 2, 9, 9\), but this block was built for"):
        build()(torch.zeros(2, 2, 9, 9))


def test_one_capsule_a_block_needs_no_choice():
    model = make_model(kernel_sizes=(3,), local=False)
    assert isinstance(model.network, EndToEndNetwork)
    assert not any(isinstance(m, nn.Linear) for m in model.network.prime_blocks[0].modules())
