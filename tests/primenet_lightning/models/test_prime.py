import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from stepping import run_stages
from tiny import AT_ONCE
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import DataLoader, IterableDataset

from primenet_lightning import Capsule, NonFiniteError, PaperAdam, PrimeNet, architecture
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.training.loss_log import LossLog

SMALL = dict(in_channels=2, num_classes=3, reduce_channels=2, channels=4, projection_channels=3, head_channels=5)


def make_model(depth=1, side=8, **options):
    torch.manual_seed(3)
    return PrimeNet(**(SMALL | dict(depth=depth, image_size=(side, side)) | options))


def parameters(model):
    return {name: p.detach().clone() for name, p in model.network.named_parameters()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Outputs(Callback):
    """Keeps what training_step returns."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs)


# -- the step, against plain torch -----------------------------------------------------------------------


def plain_loop(network, batches, make_optimizer=lambda p: Adam(p, lr=2e-4, betas=(0.99, 0.999), fused=True)):
    """PrimeNet written out: no stages, no composite, no Lightning. Returns the routes taken.

    Adam is fused as PaperAdam is (test_optimizers.py compares it with the other way): where a gradient is zero but for
    rounding, as a bias's before batch norm, Adam makes steps of it that differ as soon as any last digit does.
    """
    optimizers = {}
    for i, block in enumerate(network.blocks):
        for name, capsule in block.capsules.items():
            optimizers[i, name] = make_optimizer(list(capsule.parameters()))
        if block.projection_classifier is not None:
            own = [*block.projection.parameters(), *block.projection_classifier.parameters()]
            optimizers[i, "projection"] = make_optimizer(own)
    optimizers["head"] = make_optimizer([*network.blocks[-1].projection.parameters(), *network.head.parameters()])
    routes = []
    network.train()
    for images, target in batches:
        x, route = images, []
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        for i, block in enumerate(network.blocks):
            losses, maps = [], []
            for capsule in block.capsules.values():
                feature_map = capsule.features(x)
                loss = functional.cross_entropy(capsule.classifier(feature_map), target)
                loss.backward()
                losses.append(loss.item())
                maps.append(feature_map.detach())
            route.append(losses.index(min(losses)))
            projected = block.projection(x)
            if block.projection_classifier is not None:
                functional.cross_entropy(block.projection_classifier(projected), target).backward()
                projected = projected.detach()
            x = torch.cat([maps[route[-1]], projected], 1)
            if i + 1 < len(network.blocks):
                x = functional.max_pool2d(x, 2)
        functional.cross_entropy(network.head(x), target).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        routes.append(route)
    return routes


@pytest.mark.parametrize(("depth", "side"), [(1, 8), (3, 16)])
@pytest.mark.parametrize(
    "options",
    [{}, {"backward": "learner"}, {"backward": "batch"}, AT_ONCE],
    ids=["stage", "learner", "batch", "immediate"],
)
def test_training_equals_a_plain_loop_with_separate_adams(depth, side, options, make_trainer, make_batches, loader):
    model = make_model(depth, side, **options)
    twin = copy.deepcopy(model.network).double()
    batches = make_batches(30, shape=(2, side, side), dtype=torch.float64)
    outputs = Outputs()
    trainer = make_trainer(precision="64-true", callbacks=[outputs])
    trainer.fit(model, loader(batches))
    routes = plain_loop(twin, batches)
    assert [output["route"] for output in outputs.seen] == routes
    for (name, p), (_, q) in zip(model.network.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert trainer.global_step == 30


@pytest.mark.parametrize(("depth", "side"), [(1, 8), (3, 16)])
def test_all_ways_backward_agree_bit_for_bit(depth, side, make_trainer, make_batches, loader):
    results = []
    for options in ({}, {"backward": "learner"}, {"backward": "batch"}, AT_ONCE):
        model = make_model(depth, side, gradient_clip_val=0.5, **options)
        make_trainer().fit(model, loader(make_batches(12, shape=(2, side, side))))
        results.append(parameters(model))
    for result in results[1:]:
        assert_equal(results[0], result)


def test_unrouted_capsules_learn_too(make_trainer, make_batches, loader):
    model = make_model()
    before, outputs = parameters(model), Outputs()
    make_trainer(callbacks=[outputs]).fit(model, loader(make_batches(1, shape=(2, 8, 8))))
    routed = model.network.capsule_names[0][outputs.seen[0]["route"][0]]
    losses = {name: outputs.seen[0]["losses"][name] for name in model.network.capsule_names[0]}
    assert losses[routed] == min(losses.values())
    for name, after in parameters(model).items():
        assert not torch.equal(before[name], after), name


def test_total_is_the_routed_capsules_loss_plus_the_heads(make_trainer, make_batches, loader):
    outputs = Outputs()
    model = make_model(2, 16)
    make_trainer(callbacks=[outputs]).fit(model, loader(make_batches(5, shape=(2, 16, 16))))
    for output in outputs.seen:
        losses, (first, second) = output["losses"], output["route"]
        names = ("k3", "k5", "k7")
        parts = losses[f"block0.{names[first]}"] + losses[f"block1.{names[second]}"] + losses["head"]
        assert losses["total"] == pytest.approx(parts)


@pytest.mark.parametrize("options", [{}, AT_ONCE, {"backward": "batch"}])
def test_a_frozen_capsule_stays_as_it_is(options, make_trainer, make_batches, loader):
    model = make_model(**options)
    model.network.blocks[0].capsules["k5"].requires_grad_(False)
    before = parameters(model)
    make_trainer().fit(model, loader(make_batches(3, shape=(2, 8, 8))))
    for name, after in parameters(model).items():
        assert torch.equal(before[name], after) == ("k5" in name), name


def test_each_learner_has_its_own_optimizer_by_name(make_trainer, make_batches, loader):
    model = make_model(2, 16, capsule_optimizer=lambda p: SGD(p, lr=0.0), head_optimizer=lambda p: Adam(p, lr=0.1))
    before = parameters(model)
    make_trainer().fit(model, loader(make_batches(3, shape=(2, 16, 16))))
    assert list(model.capsule_optimizers) == model.network.loss_names
    assert isinstance(model.capsule_optimizers["block0.k3"], SGD)
    assert isinstance(model.capsule_optimizers["head"], Adam)
    head = {"head.", "blocks.1.projection.1."}
    for name, after in parameters(model).items():
        assert torch.equal(before[name], after) != name.startswith(tuple(head)), name


def test_the_defaults_are_the_papers(make_trainer, make_batches, loader):
    model = make_model()
    make_trainer().fit(model, loader(make_batches(1, shape=(2, 8, 8))))
    for optimizer in model.capsule_optimizers.values():
        assert isinstance(optimizer, PaperAdam)
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (2e-4, (0.99, 0.999))


@pytest.mark.parametrize(("backward", "most"), [("stage", 1.05), ("learner", 1.05), ("batch", None)])
def test_memory_of_a_training_step_does_not_grow_with_depth(backward, most, make_trainer, make_batches, monkeypatch):
    """Of the step that `Trainer.fit` makes; the benchmark's counter, which checks itself there."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "benchmarks")
    from memory import SavedActivations

    def peak(depth):
        model = make_model(depth, backward=backward, pool_every=99, local_classifier="pooled")
        (batch,) = make_batches(1, shape=(2, 8, 8))
        uncounted = [*model.network.parameters(), *model.network.buffers(), *batch]
        original = model.training_step

        def counted(batch, batch_idx):
            with SavedActivations([*uncounted, *batch]) as counter:
                output = original(batch, batch_idx)
            seen.append(counter.peak)
            return output

        seen = []
        model.training_step = counted
        make_trainer().fit(model, DataLoader([batch], batch_size=None))
        return seen[0]

    shallow, deep = peak(2), peak(8)
    if most is None:
        assert deep > 3 * shallow  # else the test would say nothing
    else:
        assert deep <= most * shallow


# -- steps, windows, clipping, schedules -----------------------------------------------------------------


def test_global_step_counts_batches_and_max_steps_stops_there(make_trainer, make_batches, loader, tmp_path):
    checkpoint = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    trainer = make_trainer(max_epochs=-1, max_steps=11, enable_checkpointing=True, callbacks=[checkpoint])
    trainer.fit(make_model(), loader(make_batches(5, shape=(2, 8, 8))))
    assert trainer.global_step == 11
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=4.ckpt", "step=8.ckpt"]


class Unsized(IterableDataset):
    """Batches whose number nobody knows beforehand."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("sized", [True, False])
def test_accumulation_averages_each_window_also_the_last_shorter_one(sized, make_trainer, make_batches, loader):
    """With SGD an accumulated step is a step along the mean of the batches' gradients."""
    batches = make_batches(5, shape=(2, 8, 8), dtype=torch.float64)
    sgd = dict(capsule_optimizer=lambda p: SGD(p, lr=0.1), head_optimizer=lambda p: SGD(p, lr=0.1))
    model = make_model(accumulate_grad_batches=2, **sgd)
    twin = copy.deepcopy(model.network).double()
    trainer = make_trainer(precision="64-true")
    trainer.fit(model, loader(batches if sized else Unsized(batches)))
    assert trainer.global_step == 3
    for window in (batches[:2], batches[2:4], batches[4:]):
        total = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
        for images, target in window:
            twin.zero_grad()
            for stage in run_stages(twin, images, target):
                sum(stage.losses.values()).backward()
            for name, p in twin.named_parameters():
                total[name] += p.grad / len(window)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p -= 0.1 * total[name]
    for (name, p), (_, q) in zip(model.network.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("options", [{}, AT_ONCE], ids=["batch", "immediate"])
def test_clipping_is_by_learner(options, make_trainer, make_batches, loader):
    """With SGD of rate 1 no learner moves further than the clip value; unclipped, all would."""
    sgd = dict(capsule_optimizer=lambda p: SGD(p, lr=1.0), head_optimizer=lambda p: SGD(p, lr=1.0))
    model = make_model(gradient_clip_val=0.01, **options, **sgd)
    before = {name: [p.detach().clone() for p in ps] for name, ps in model.network.learners().items()}
    make_trainer().fit(model, loader(make_batches(1, shape=(2, 8, 8))))
    for name, ps in model.network.learners().items():
        moved = sum((p - q).square().sum() for p, q in zip(ps, before[name], strict=True)).sqrt()
        assert moved.item() == pytest.approx(0.01, rel=1e-3), name


@pytest.mark.parametrize(("interval", "expected"), [("epoch", (1 / 4, 0.1**2)), ("step", (1 / 16, 0.1**8))])
def test_capsules_and_head_have_schedules_of_their_own(
    interval, expected, make_trainer, make_batches, loader, tmp_path
):
    sgd = dict(capsule_optimizer=lambda p: SGD(p, lr=0.01), head_optimizer=lambda p: SGD(p, lr=0.01))
    model = make_model(
        capsule_scheduler=lambda o: StepLR(o, step_size=1 if interval == "epoch" else 2, gamma=0.5),
        head_scheduler=lambda o: ExponentialLR(o, 0.1),
        scheduler_interval=interval,
        **sgd,
    )
    monitor = LearningRateMonitor()
    trainer = make_trainer(max_epochs=2, callbacks=[monitor], logger=CSVLogger(tmp_path))
    trainer.fit(model, loader(make_batches(4, shape=(2, 8, 8))))
    rates = {name: o.param_groups[0]["lr"] for name, o in model.capsule_optimizers.items()}
    assert rates["block0.k3"] == rates["block0.k7"] == pytest.approx(0.01 * expected[0])
    assert rates["head"] == pytest.approx(0.01 * expected[1])
    assert any(name.endswith("/block0.k5") for name in monitor.lrs)


# -- NaN -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"backward": "learner"}, {"backward": "batch"}])
def test_nan_names_block_capsule_and_step_before_any_parameter_changes(options, make_trainer, make_batches, loader):
    model = make_model(2, 16, **options)
    batches = make_batches(4, shape=(2, 16, 16))

    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                with torch.no_grad():
                    pl_module.network.blocks[1].capsules["k5"].classifier[1].bias[0] = torch.nan
                self.before = parameters(pl_module)

    poison = Poison()
    with pytest.raises(
        NonFiniteError, match=r"the loss of block1\.k5 is nan at step 3, learning rate 0.0002: lower its learning rate"
    ):
        make_trainer(callbacks=[poison]).fit(model, loader(batches))
    after = parameters(model)
    for name, before in poison.before.items():
        torch.testing.assert_close(before, after[name], rtol=0, atol=0, equal_nan=True)


def test_nan_under_immediate_update_leaves_its_block_and_what_follows(make_trainer, make_batches, loader):
    """The blocks before have made their step by then, as the docstring says."""
    model = make_model(2, 16, **AT_ONCE)
    with torch.no_grad():
        model.network.blocks[1].capsules["k5"].classifier[1].bias[0] = torch.nan
    before = parameters(model)
    with pytest.raises(NonFiniteError, match=r"the loss of block1\.k5 is nan at step 0"):
        make_trainer().fit(model, loader(make_batches(2, shape=(2, 16, 16))))
    for name, after in parameters(model).items():
        changed = not torch.equal(before[name].nan_to_num(), after.nan_to_num())
        assert changed == name.startswith("blocks.0."), name


def test_nan_in_the_images_is_found_by_the_first_capsule(make_trainer, make_batches, loader):
    batches = make_batches(1, shape=(2, 8, 8))
    batches[0][0][0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"block0\.k3 is nan at step 0"):
        make_trainer().fit(make_model(), loader(batches))


# -- evaluation ------------------------------------------------------------------------------------------


@pytest.fixture
def trained(make_trainer, make_batches, loader):
    model = make_model()
    make_trainer(max_epochs=3).fit(model, loader(make_batches(6, shape=(2, 8, 8))))
    return model


def test_metrics_are_sklearns(trained, make_trainer, make_batches, loader):
    from sklearn.metrics import accuracy_score, log_loss

    batches = make_batches(3, size=7, shape=(2, 8, 8), seed=5) + make_batches(1, size=2, shape=(2, 8, 8), seed=6)
    trainer = make_trainer()
    (logged,) = trainer.test(trained, loader(batches), verbose=False)
    images, target = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    trained.eval()
    with torch.no_grad():
        logits = trained(images)
        capsules = {f"block0.{name}": c(images)[1] for name, c in trained.network.blocks[0].capsules.items()}
    assert logged["test/error"] == pytest.approx(100 * (1 - accuracy_score(target, logits.argmax(1))), abs=1e-4)
    assert logged["test/accuracy"] == pytest.approx(accuracy_score(target, logits.argmax(1)))
    for name, local in {**capsules, "head": logits}.items():
        loss = log_loss(target, local.double().softmax(1), labels=[0, 1, 2])
        assert logged[f"test/loss/{name}"] == pytest.approx(loss, rel=1e-4)
        if name != "head":
            accuracy = accuracy_score(target, local.argmax(1))
            assert logged[f"test/accuracy/{name}"] == pytest.approx(accuracy)
            assert logged[f"test/error/{name}"] == pytest.approx(100 * (1 - accuracy), abs=1e-4)
    routed = trained.network.capsule_names[0][trained.network.inference_route()[0]]
    assert logged["test/loss/total"] == pytest.approx(
        logged["test/loss/head"] + logged[f"test/loss/{routed}"], rel=1e-5
    )


def test_train_metrics_count_every_batch_of_the_epoch(make_trainer, make_batches, loader):
    frozen = dict(capsule_optimizer=lambda p: SGD(p, lr=0.0), head_optimizer=lambda p: SGD(p, lr=0.0))
    model = make_model(**frozen)
    batches = make_batches(5, shape=(2, 8, 8))
    trainer = make_trainer()
    trainer.fit(model, loader(batches))
    network = model.network.train()
    correct = dict.fromkeys(network.loss_names, 0)
    for images, target in batches:
        for stage in run_stages(network, images, target):
            for name, logits in stage.logits.items():
                correct[name] += (logits.argmax(1) == target).sum().item()
    assert trainer.callback_metrics["train/accuracy"].item() == pytest.approx(correct["head"] / 30)
    assert trainer.callback_metrics["train/error"].item() == pytest.approx(100 - 100 * correct["head"] / 30, abs=1e-4)
    for name in network.capsule_names[0]:
        assert trainer.callback_metrics[f"train/accuracy/{name}"].item() == pytest.approx(correct[name] / 30)


def heads_answers(model, trainer, data):
    """The head's logits during a test, caught on their way out."""
    caught = []
    hook = model.network.head.register_forward_hook(lambda *args: caught.append(args[2].clone()))
    trainer.test(model, data, verbose=False)
    hook.remove()
    return torch.cat(caught)


def test_permuted_test_labels_change_no_prediction(trained, make_trainer, make_batches, loader):
    batches = make_batches(3, shape=(2, 8, 8), seed=5)
    permuted = [(images, target.roll(1)) for images, target in batches]
    seen = []
    for routing in ("majority", "min_entropy", 1):
        trained.inference_routing = routing
        answers = [torch.cat(make_trainer().predict(trained, loader(data))) for data in (batches, permuted)]
        assert torch.equal(*answers)
        assert torch.equal(*(heads_answers(trained, make_trainer(), loader(data)) for data in (batches, permuted)))
        seen.append(answers[0])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("how", ["predict", "test"])
def test_an_unrouted_capsule_is_never_called_at_inference(how, trained, make_trainer, make_batches, loader):
    called = set()
    for name, capsule in trained.network.blocks[0].capsules.items():
        capsule.features.register_forward_hook(lambda *_, name=name: called.add(name))
    trained.evaluate_capsules = False
    getattr(make_trainer(), how)(trained, loader(make_batches(2, shape=(2, 8, 8))))
    assert called == {trained.network.blocks[0].capsule_names[trained.network.inference_route()[0]]}


def test_routed_only_and_full_evaluation_agree(trained, make_trainer, make_batches, loader):
    batches = make_batches(3, shape=(2, 8, 8), seed=5)
    (full,) = make_trainer().test(trained, loader(batches), verbose=False)
    trained.evaluate_capsules = False
    (routed,) = make_trainer().test(trained, loader(batches), verbose=False)
    assert routed == {name: full[name] for name in ("test/accuracy", "test/error", "test/loss/head")}


def test_oracle_is_marked_in_every_name_and_refused_for_fitting(trained, make_trainer, make_batches, loader):
    trained.inference_routing = "oracle"
    (logged,) = make_trainer().test(trained, loader(make_batches(2, shape=(2, 8, 8))), verbose=False)
    assert "test/oracle/error" in logged
    assert all(name.startswith("test/oracle/") for name in logged)
    with pytest.raises(ValueError, match="inference_routing='oracle' routes by the labels under test"):
        make_trainer().fit(make_model(inference_routing="oracle"), loader(make_batches(1, shape=(2, 8, 8))))


def test_best_validation_logs_and_keeps_the_route_of_least_validation_error(make_trainer, make_batches, loader):
    """What is logged must be the error of the route that the checkpoint holds, epoch by epoch."""
    model = make_model(2, 16, inference_routing="best_validation")
    validation = make_batches(4, size=9, shape=(2, 16, 16), seed=8)

    class Recount(Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.sanity_checking:
                assert pl_module.network.selected_route is None
                return
            found = {}
            with torch.no_grad():
                for route in pl_module.network.joint_routes():
                    answers = [(pl_module.network(x, route), y) for x, y in validation]
                    wrong = sum((logits.argmax(1) != y).sum().item() for logits, y in answers)
                    loss = sum(functional.cross_entropy(logits, y).item() for logits, y in answers) / 4
                    found[route] = (wrong, loss)
            best = min(found, key=lambda route: (found[route][0], route))
            assert pl_module.network.inference_route() == best
            assert trainer.callback_metrics["val/error"].item() == pytest.approx(100 * found[best][0] / 36, rel=1e-5)
            assert trainer.callback_metrics["val/loss/head"].item() == pytest.approx(found[best][1], rel=1e-5)
            self.counted = trainer.current_epoch

    recount = Recount()
    trainer = make_trainer(max_epochs=4, callbacks=[recount], num_sanity_val_steps=2)
    trainer.fit(model, loader(make_batches(6, shape=(2, 16, 16))), loader(validation))
    assert recount.counted == 3


def test_an_aborted_validation_leaves_nothing_behind(trained, make_trainer, make_batches, loader):
    batches = make_batches(4, shape=(2, 8, 8), seed=5)
    (clean,) = make_trainer().validate(trained, loader(batches), verbose=False)

    class Abort(Callback):
        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 1:
                raise ZeroDivisionError

    other = make_batches(3, shape=(2, 8, 8), seed=6)
    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[Abort()]).validate(trained, loader(other), verbose=False)
    assert make_trainer().validate(trained, loader(batches), verbose=False) == [clean]


# -- checkpoints -----------------------------------------------------------------------------------------


def test_checkpoint_is_enough(make_trainer, tmp_path):
    data = DigitsDataModule(batch_size=64)
    model = PrimeNet(channels=4, capsule_optimizer=lambda p: SGD(p, lr=0.1))
    trainer = make_trainer(limit_train_batches=4, limit_val_batches=1)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    loaded = PrimeNet.load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True)
    assert loaded.data_description == data.description()
    assert loaded.network.inference_route() == model.network.inference_route()
    assert list(loaded.network.history.ring) == list(model.network.history.ring)
    images = torch.randn(5, 1, 8, 8)
    assert torch.equal(loaded.eval()(images), model.eval()(images))


def test_testing_on_other_data_does_not_change_what_prediction_knows(make_trainer):
    model = PrimeNet(channels=4)
    trained_on = DigitsDataModule(batch_size=256)
    make_trainer(limit_train_batches=1, limit_val_batches=1).fit(model, trained_on)
    make_trainer(limit_test_batches=1).test(model, DigitsDataModule(normalization="standardize"), verbose=False)
    assert model.data_description == trained_on.description()
    assert model.data_description["mean"] == [0.5]


@pytest.mark.parametrize("options", [{}, AT_ONCE], ids=["batch", "immediate"])
def test_resuming_after_an_epoch_is_bit_exact(options, make_trainer, tmp_path):
    def fit(epochs, ckpt_path=None):
        torch.manual_seed(1)
        model = PrimeNet(channels=4, **options, capsule_scheduler=lambda o: ExponentialLR(o, 0.5))
        trainer = make_trainer(max_epochs=epochs, limit_val_batches=1)
        trainer.fit(model, DigitsDataModule(batch_size=256), ckpt_path=ckpt_path, weights_only=True)
        return model, trainer

    whole, _ = fit(4)
    _, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, trainer = fit(4, tmp_path / "half.ckpt")
    assert_equal(parameters(whole), parameters(resumed))
    assert trainer.global_step == 4 * 5
    for name, optimizer in whole.capsule_optimizers.items():
        assert optimizer.param_groups[0]["lr"] == resumed.capsule_optimizers[name].param_groups[0]["lr"]


# -- extension -------------------------------------------------------------------------------------------


class Dilated(PrimeNet):
    """Three dilations instead of three kernel sizes."""

    def configure_capsules(self, index, in_shape):
        def capsule(dilation):
            features = nn.Sequential(
                nn.Conv2d(in_shape[0], 4, 3, padding=dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(4),
                nn.ReLU(),
            )
            return Capsule(features, nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, self.num_classes)))

        return {f"d{dilation}": capsule(dilation) for dilation in (1, 2)}

    def configure_head(self, in_shape):
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(in_shape[0] * 4, self.num_classes))


def test_a_subclass_with_its_own_backbone_and_head_learns_locally(make_trainer, make_batches, loader):
    model = Dilated(**SMALL)
    twin = copy.deepcopy(model.network).double()
    batches = make_batches(10, shape=(2, 8, 8), dtype=torch.float64)
    make_trainer(precision="64-true").fit(model, loader(batches))
    plain_loop(twin, batches)
    assert model.network.loss_names == ["block0.d1", "block0.d2", "head"]
    for (name, p), (_, q) in zip(model.network.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_projection_may_be_left_out():
    model = make_model(projection_channels=0)
    assert model.network.blocks[0].projection is None
    assert model.network.blocks[0].out_shape == (4, 8, 8)


def test_single_fields_of_a_size_can_be_replaced():
    model = PrimeNet(image_size=(28, 28), channels=5, local_classifier="pooled", projection_channels=0)
    expected = dataclasses.replace(
        architecture("compact", (28, 28)), channels=5, local_classifier="pooled", projection_channels=0
    )
    assert model.architecture == expected


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(accumulate_grad_batches=0), "accumulate_grad_batches=0 must be at least 1"),
        (dict(gradient_clip_val=0), "gradient_clip_val=0 must be positive"),
        (
            dict(**AT_ONCE, accumulate_grad_batches=2),
            "step='stage' steps after every stage and accumulate_grad_batches=2 does not",
        ),
        (dict(step="stage"), "step='stage' comes more often than exchange='batch', which it follows"),
        (dict(exchange="stage", backward="batch"), "exchange='stage' comes more often than backward='batch'"),
        (dict(step="stage", exchange="stage", backward="batch"), "exchange='stage' comes more often than"),
        (dict(step="learner"), "step='learner' is unknown; use 'stage' or 'batch'"),
        (dict(exchange="learner"), "exchange='learner' is unknown"),
        (dict(update="immediate"), "update='immediate' is of version 0.1; it is called step"),
        (dict(overlap=True), "overlap=True is of version 0.1; it is called exchange"),
        (dict(backward="fused"), "backward='fused' is of version 0.1; use backward='batch'"),
        (dict(pool_every=0), "pool_every=0 must be at least 1 block"),
        (dict(step="later"), "step='later' is unknown"),
        (dict(backward="all"), "backward='all' is unknown"),
        (dict(scheduler_interval="day"), "scheduler_interval='day' is unknown"),
        (dict(image_size=(3, 3)), r"map_size=\(3, 3\) is too small for the head"),
        (dict(kernel_sizes=(3, 4)), "kernel_size=4 must be odd"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model(**options)


def test_data_that_do_not_fit_the_model_are_refused_before_training(make_trainer):
    with pytest.raises(ValueError, match=r"built with image_size=\[9, 9\], but DigitsDataModule has \[8, 8\]"):
        make_trainer().fit(PrimeNet(image_size=(9, 9)), DigitsDataModule())
    with pytest.raises(ValueError, match="built with num_classes=4, but DigitsDataModule has 10"):
        make_trainer().fit(PrimeNet(num_classes=4), DigitsDataModule())


def test_integer_images_are_refused(make_trainer, loader):
    batches = [(torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(ValueError, match=r"images have dtype torch.uint8; normalise them"):
        make_trainer().fit(make_model(), loader(batches))


def test_fp16_and_immediate_update_are_refused(make_trainer, make_batches, loader):
    trainer = make_trainer()
    trainer.precision_plugin.scaler = object()  # what 16-mixed has on a GPU
    with pytest.raises(ValueError, match="step='stage' cannot scale fp16 losses"):
        trainer.fit(make_model(**AT_ONCE), loader(make_batches(1, shape=(2, 8, 8))))


def test_loss_curves_are_attached_once(make_trainer, make_batches, loader):
    trainer = make_trainer()  # has a subclass of them already
    trainer.fit(make_model(), loader(make_batches(1, shape=(2, 8, 8))))
    assert sum(isinstance(callback, LossLog) for callback in trainer.callbacks) == 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_learns(precision, make_trainer, make_batches, loader):
    """The same batch again and again must be learned by heart, in half the digits too."""
    model = make_model(capsule_optimizer=lambda p: Adam(p, lr=1e-2), head_optimizer=lambda p: Adam(p, lr=1e-2))
    outputs = Outputs()
    make_trainer(precision=precision, callbacks=[outputs], max_epochs=40).fit(
        model, loader(make_batches(1, shape=(2, 8, 8)))
    )
    for name in model.network.loss_names:
        assert outputs.seen[-1]["losses"][name] < 0.3 * outputs.seen[0]["losses"][name]
