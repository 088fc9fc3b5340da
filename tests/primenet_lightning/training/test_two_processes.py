"""Two gloo processes against one on the same global batches."""

from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from tiny import AT_ONCE, Plain, SGDStep, Steps, TinyData, distance, make_model, make_trainer, same, state
from torch import distributed, nn
from torch.profiler import profile

from primenet_lightning import Capsule, NonFiniteError, PrimeBlock, PrimeNet, local_targets
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.training.batch_share import BatchShare
from primenet_lightning.training.gradient_sum import batch_norm_statistics

WAYS = {
    "stage": {},
    "learner": dict(backward="learner"),
    "batch": dict(backward="batch"),
    "overlap": dict(exchange="stage"),
    "immediate": AT_ONCE,
    "accumulate": dict(accumulate_grad_batches=2),
    "accumulate and overlap": dict(accumulate_grad_batches=2, exchange="stage"),
    "clip": dict(gradient_clip_val=0.05),
    "commit": dict(router="commit", router_options={"warm_up": 2}),
    "gate": dict(router="gate"),
    "end to end": dict(router="concatenate", local=False),
}


class Wire:
    """Counts what goes through all_reduce."""

    def __enter__(self):
        self.calls, self.original = [], distributed.all_reduce
        distributed.all_reduce = self.count
        return self

    def count(self, tensor, *args, **kwargs):
        self.calls.append(tensor.numel() * tensor.element_size())
        return self.original(tensor, *args, **kwargs)

    def __exit__(self, *_):
        distributed.all_reduce = self.original


def train(folder, kind, model_options, devices=1, precision="64-true", epochs=2, **trainer_options):
    """One fit, on as many processes as there are; everything that can be compared."""
    steps, profiled = Steps(), trainer_options.pop("profiled", False)
    strategy = trainer_options.pop("strategy", "ddp" if devices > 1 else "auto")
    options = dict(precision=precision, max_epochs=epochs, devices=devices, strategy=strategy) | trainer_options
    trainer = make_trainer(folder, [steps], **options)
    model = make_model(kind, **model_options)
    with Wire() as wire, profile() if profiled else nullcontext() as profiler:
        trainer.fit(model, TinyData(batch_size=20))
    events = profiler.key_averages() if profiled else []
    counted = sum(event.count for event in events if event.key == "c10d::allreduce_")
    curves = next(c for c in trainer.callbacks if hasattr(c, "validation"))
    return dict(
        state=state(model),
        routes=[output["route"] for output in steps.outputs],
        losses=[output["losses"] for output in steps.outputs],
        curves=(curves.train, curves.validation),
        metrics={name: value.item() for name, value in trainer.callback_metrics.items()},
        bytes=wire.calls,
        unseen=counted - len(wire.calls),  # what DDP sends by itself, in C++
        steps=trainer.global_step,
    )


@pytest.mark.parametrize(("way", "depth"), [("stage", 1), *((way, 2) for way in WAYS)])
def test_two_processes_train_what_one_trains(way, depth, ranks, tmp_path):
    """75 images in batches of 20, 20, 20 and 15: of the last one, one rank has 8 and the other 7."""
    options = WAYS[way] | dict(depth=depth)
    one = train(tmp_path, Plain, options)
    first, second = ranks(train, tmp_path, Plain, options, 2)
    assert same(first["state"], second["state"])
    assert distance(one["state"], first["state"]) < 1e-9
    assert one["routes"] == first["routes"] == second["routes"]
    assert first["losses"] == second["losses"]
    for here, there in zip(one["losses"], first["losses"], strict=True):
        assert here == pytest.approx(there, abs=1e-9)
    assert first["steps"] == one["steps"]
    assert first["curves"] == second["curves"]
    for here, there in zip(one["curves"], first["curves"], strict=True):
        assert [step for step, _ in here] == [step for step, _ in there]
        for (_, mine), (_, theirs) in zip(here, there, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-6)  # torchmetrics' mean is a float32
    assert first["metrics"].keys() == one["metrics"].keys()
    for name, value in one["metrics"].items():
        assert first["metrics"][name] == second["metrics"][name] == pytest.approx(value, abs=1e-5), name
        if "error" in name:
            assert first["metrics"][name] == value, name  # counted, so equal to the last digit


def test_with_sgd_and_float32_too(ranks, tmp_path):
    options = dict(depth=2, capsule_optimizer=SGDStep(0.05), head_optimizer=SGDStep(0.05))
    one = train(tmp_path, Plain, options, precision="32-true")
    first, second = ranks(train, tmp_path, Plain, options, 2, "32-true")
    assert same(first["state"], second["state"])
    assert distance(one["state"], first["state"]) < 1e-6


def test_one_message_a_step_of_the_bytes_of_the_parameters(ranks, tmp_path):
    """And one number per tensor, that says whether it had a gradient, and batch norm's statistics."""
    depth = 2
    network = make_model(depth=depth).network.double()
    parameters = list(network.parameters())
    size = sum(p.numel() * 8 for p in parameters)
    extra = 8 * len(parameters) + sum(b.numel() * 8 for name, b in network.named_buffers() if "running" in name)
    together = ranks(train_profiled, tmp_path, dict(depth=depth))[0]
    large = [sent for sent in together["bytes"] if sent >= size]
    assert large == [size + extra] * together["steps"]
    assert together["unseen"] == 0
    each = ranks(train, tmp_path, PrimeNetKind, dict(depth=depth, exchange="stage"), 2, "64-true", 1)[0]
    assert len(each["bytes"]) == len(together["bytes"]) + depth * each["steps"]
    assert sum(each["bytes"]) == sum(together["bytes"])
    assert same(each["state"], together["state"])


class PrimeNetKind(PrimeNet):
    """With batch norm; importable in the other processes under this file's name."""


def test_the_bytes_of_compact_on_mnist_are_those_of_its_parameters():
    """The figure 1.00: what one message holds over the parameters, by the shapes alone."""
    network = PrimeNet(1, (28, 28), 10).network
    parameters = sum(p.numel() for p in network.parameters())
    extra = len(list(network.parameters())) + sum(b.numel() for b in batch_norm_statistics(network))
    assert 1 < (parameters + extra) / parameters < 1.003


# -- batch norm


def batch_norm_after_one_step(folder):
    trainer = make_trainer(folder, devices=2, strategy="ddp", precision="64-true", max_steps=1, limit_val_batches=0)
    model = make_model(PrimeNetKind)
    trainer.fit(model, TinyData(batch_size=20))
    return state(model)


def test_batch_norm_statistics_are_the_mean_of_what_each_share_gives(ranks, tmp_path):
    """The documented difference: shares are normalised by their own statistics; these are averaged at each step."""
    first, second = ranks(batch_norm_after_one_step, tmp_path)
    assert same(first, second)
    data = TinyData(batch_size=20)
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(0)
    images, _ = next(iter(loader))
    seen = []
    for share in data.normalize(images).double().split(10):
        capsules = make_model(PrimeNetKind).network.double().train().blocks[0].capsules
        for capsule in capsules.values():
            capsule(share)
        seen.append({f"blocks.0.capsules.{name}": b.clone() for name, b in capsules.named_buffers()})
    for name in seen[0]:
        if "running" in name:
            torch.testing.assert_close(first[name], (seen[0][name] + seen[1][name]) / 2, rtol=0, atol=1e-12)


def validate_in_the_middle_of_a_window(folder):
    """A validation after the first of two accumulated batches, where no step has averaged anything yet."""
    seen = []

    class Look(Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.append(state(pl_module))

    options = dict(devices=2, strategy="ddp", val_check_interval=1, limit_train_batches=3)
    make_trainer(folder, [Look()], **options).fit(
        make_model(PrimeNetKind, accumulate_grad_batches=2), TinyData(batch_size=20)
    )
    return seen


def test_batch_norm_statistics_agree_at_every_validation(ranks, tmp_path):
    first, second = ranks(validate_in_the_middle_of_a_window, tmp_path)
    assert len(first) == 3
    for here, there in zip(first, second, strict=True):
        assert same(here, there)


def train_with_a_frozen_head(folder):
    model = make_model(PrimeNetKind, **AT_ONCE)
    model.network.head.requires_grad_(False)
    model.network.blocks[0].projection.requires_grad_(False)
    make_trainer(folder, devices=2, strategy="ddp").fit(model, TinyData(batch_size=20))
    return state(model)


def test_batch_norm_statistics_agree_where_the_head_is_frozen(ranks, tmp_path):
    first, second = ranks(train_with_a_frozen_head, tmp_path)
    assert same(first, second)


# -- what may differ from rank to rank


class Fork(PrimeNetKind):
    """One capsule has a branch that only some batches take."""

    def configure_capsules(self, index, in_shape):
        capsules = dict(super().configure_capsules(index, in_shape))
        capsules["fork"] = Capsule(Branching(in_shape[0]), capsules["k3"].classifier)
        capsules["k3"] = super().configure_capsules(index, in_shape)["k3"]
        return capsules


class Branching(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.always, self.sometimes = nn.Conv2d(channels, 4, 1), nn.Conv2d(channels, 4, 1)
        self.never = nn.Parameter(torch.ones(3))
        self.taken = []

    def forward(self, x):
        branch = int(x.abs().sum()) % 2  # as good as a coin
        self.taken.append(branch)
        return self.always(x) + self.sometimes(x) if branch else self.always(x)


def train_fork(folder):
    model = make_model(Fork)
    branching = model.network.blocks[0].capsules["fork"].features
    make_trainer(folder, devices=2, strategy="ddp").fit(model, TinyData(batch_size=8))
    optimizer = model.network.learners()["block0.fork"]
    assert any(p is branching.never for p in optimizer)
    return state(model), branching.taken, branching.never.grad


def test_a_branch_that_one_rank_takes_keeps_ranks_equal(ranks, tmp_path):
    (first, here, none), (second, there, _) = ranks(train_fork, tmp_path)
    assert here != there  # else the test would say nothing
    assert same(first, second)
    assert none is None


def nan_on_one_rank(folder):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1 and trainer.global_rank == 1:
                batch[0][0, 0, 0, 0] = torch.nan

    model = make_model(PrimeNetKind)
    try:
        make_trainer(folder, [Poison()], devices=2, strategy="ddp").fit(model, TinyData(batch_size=20))
    except NonFiniteError as error:
        return str(error)


def test_a_nan_on_one_rank_stops_all_with_the_same_sentence(ranks, tmp_path):
    first, second = ranks(nan_on_one_rank, tmp_path)
    assert first == second
    assert first.startswith("the loss of block0.k3 is nan at step 1, learning rate 0.0002: ")


# -- evaluation


def evaluate(checkpoint, folder, devices=1):
    trainer = make_trainer(folder, devices=devices, strategy="ddp" if devices > 1 else "auto")
    model = PrimeNet.load_from_checkpoint(checkpoint, weights_only=True)
    (logged,) = trainer.test(model, DigitsDataModule(eval_batch_size=50), verbose=False)
    seen = int(sum(model.test_metrics.accuracies["head"].metric_state[k].sum() for k in ("tp", "fn")))
    return logged, seen


@pytest.mark.parametrize("routing", ["majority", "best_validation"])
def test_test_error_is_equal_to_the_last_digit(routing, ranks, make_trainer, tmp_path):
    """359 images in batches of 50, the last of 59, shared out: each counts once."""
    trainer = make_trainer(limit_train_batches=8)
    data = DigitsDataModule(batch_size=64)
    trainer.fit(PrimeNet(channels=4, inference_routing=routing), data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    one, all_images = evaluate(tmp_path / "it.ckpt", tmp_path)
    (first, here), (second, there) = ranks(evaluate, tmp_path / "it.ckpt", tmp_path, 2)
    assert all_images == 359
    assert here + there == 359
    assert first == second
    assert first.keys() == one.keys()
    for name in one:
        if "error" in name or "accuracy" in name:
            assert first[name] == one[name], name
        else:
            assert first[name] == pytest.approx(one[name], rel=1e-5), name


# -- Lightning's strategies


@pytest.fixture(scope="module")
def plain(ranks, tmp_path_factory):
    return ranks(train, tmp_path_factory.mktemp("plain"), Plain, dict(depth=2), 2, "64-true", 1)


@pytest.mark.parametrize("options", [dict(find_unused_parameters=True), dict(gradient_as_bucket_view=True)])
def test_options_of_ddp_change_nothing(options, plain, ranks, tmp_path):
    (first, second) = ranks(train_with, tmp_path, options)
    assert same(first["state"], second["state"])
    assert same(first["state"], plain[0]["state"])
    assert first["bytes"] == plain[0]["bytes"]
    assert first["unseen"] == 0


def train_with(folder, options):
    return train(folder, Plain, dict(depth=2), 2, epochs=1, strategy=DDPStrategy(**options), profiled=True)


def train_profiled(folder, model_options):
    return train(folder, PrimeNetKind, model_options, 2, epochs=1, profiled=True)


def test_ddp_on_one_device_is_as_without(tmp_path):
    one = train(tmp_path, PrimeNetKind, {})
    try:
        other = train(tmp_path, PrimeNetKind, {}, strategy="ddp", devices=1)
    finally:
        distributed.destroy_process_group()
    assert same(one["state"], other["state"])
    assert {*other["bytes"]} <= {8}  # Lightning asks whether all ranks have batches


@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_no_image_is_shared_out_twice(use_distributed_sampler, ranks, tmp_path):
    first, second = ranks(labels_of_an_epoch, tmp_path, use_distributed_sampler)
    assert len(first) + len(second) == 75
    data = TinyData()
    data.setup()
    assert sorted(first + second) == sorted(
        data.train_dataset.images[data.train_dataset.indices].sum((1, 2, 3)).tolist()
    )


def labels_of_an_epoch(folder, use_distributed_sampler):
    """The sum of the pixels of each image that this rank trains on."""
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.extend(((batch[0] + 1) * 127.5).round().sum((1, 2, 3)).round().long().tolist())

    options = dict(devices=2, strategy="ddp", use_distributed_sampler=use_distributed_sampler)
    make_trainer(folder, [Look()], **options).fit(make_model(PrimeNetKind), TinyData(batch_size=20))
    return seen


# -- a block in a foreign model


def foreign(rank_seed):
    """A `PrimeBlock` inside an ordinary network, in a plain loop."""
    torch.manual_seed(3)
    block = PrimeBlock.multiscale(2, (8, 8), num_classes=3, channels=4, projection_channels=2)
    torch.manual_seed(distributed.get_rank())
    routes = []
    for _ in range(20):
        x, y = torch.randn(6, 2, 8, 8), torch.randint(3, (6,))
        with local_targets(y, BatchShare(len(y), y.device)):
            block(x)
        routes.append(block.history.ring[-1])
    return routes


def test_a_block_in_a_foreign_model_chooses_alike_on_all_ranks(ranks):
    first, second = ranks(foreign, 0)
    assert first == second
    assert len({*first}) > 1
