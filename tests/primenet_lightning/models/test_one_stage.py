"""Models of one stage train under the engine as PrimeNet does: end to end, a probe, and a probe that finetunes."""

import pytest
import torch
from lightning.pytorch import Callback
from tiny import SGDStep, Steps, TinyData, differences, distance, make_trainer, same, state, with_scaler
from torch import nn
from torch.optim import Adam

from primenet_lightning import EndToEnd, LinearProbe, NonFiniteError
from primenet_lightning.callbacks import LastCheckpoint

KINDS = ["end to end", "probe", "finetuned probe"]


def adam(parameters):
    return Adam(parameters, lr=1e-2)


def backbone(smooth):
    """From images to features; smooth is without batch norm and chance."""
    torch.manual_seed(3)
    rest = [nn.Tanh()] if smooth else [nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *rest, nn.Flatten())


class Small(EndToEnd):
    def __init__(self, in_channels=2, image_size=(8, 8), num_classes=3, smooth=False, optimizer=adam, **learning):
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)

    def configure_backbone(self):
        return nn.Sequential(backbone(self.hparams["smooth"]), nn.Linear(4 * 8 * 8, self.num_classes))


def build(kind, smooth=False, optimizer=adam, **learning):
    torch.manual_seed(4)
    if kind == "end to end":
        return Small(smooth=smooth, optimizer=optimizer, **learning)
    finetune = kind == "finetuned probe"
    return LinearProbe(4 * 8 * 8, 3, backbone(smooth), finetune, optimizer=optimizer, **learning)


# -- resuming


class Crash(Callback):
    """Raises in the middle of an optimizer step."""

    def __init__(self, step):
        self.step = step

    def on_train_start(self, trainer, pl_module):
        (optimizer,) = pl_module.learner_optimizers.values()
        original = optimizer.step

        def step():
            if trainer.global_step == self.step:
                raise ZeroDivisionError
            return original()

        optimizer.step = step


def fit(folder, kind, learning, devices=1, scaled=False, callbacks=(), ckpt_path=None):
    """Two epochs of four batches; the last checkpoint, and what the last epoch logged."""
    options = dict(devices=devices, strategy="ddp") if devices > 1 else {}
    options |= with_scaler(2.0**12, growth_interval=3) if scaled else {}
    last = LastCheckpoint(folder, 1)
    trainer = make_trainer(folder, [last, *callbacks], enable_checkpointing=True, max_epochs=2, **options)
    model = build(kind, **learning)
    torch.manual_seed(7)
    try:
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    except ZeroDivisionError:
        torch.manual_seed(99)  # nobody has these random numbers again by accident
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return torch.load(last.path, weights_only=True) | {"logged": logged}, last.path


def differences_by_step(folder, kind, steps, learning, devices=1, scaled=False):
    """Where the last checkpoint of a run that crashed and was resumed differs from the unbroken run's."""
    whole, _ = fit(folder / "whole", kind, learning, devices, scaled)
    assert {"train/loss/head", "train/error", "val/loss/head"} <= whole["logged"].keys()
    by_step = {}
    for step in steps:
        crashed, path = fit(folder / f"{step}", kind, learning, devices, scaled, [Crash(step)])
        assert crashed["global_step"] == step
        resumed, _ = fit(folder / f"{step}", kind, learning, devices, scaled, ckpt_path=path)
        by_step[step] = differences(whole, resumed)
    return by_step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("learning", "scaled", "steps"),
    [
        (dict(schedule="one_cycle"), False, [1, 3, 6]),
        (dict(accumulate_grad_batches=2, gradient_clip_val=0.5), False, [1, 3]),
        ({}, True, [2, 6]),
        (dict(exchange="stage", step="stage"), False, [2, 6]),
    ],
    ids=["a named schedule", "windows", "float16", "immediate"],
)
def test_resuming_in_an_epoch_is_bit_exact(kind, learning, scaled, steps, tmp_path):
    by_step = differences_by_step(tmp_path, kind, steps, learning, scaled=scaled)
    assert not any(by_step.values()), by_step


@pytest.mark.parametrize("kind", ["end to end", "finetuned probe"])
def test_resuming_with_two_processes_is_bit_exact(kind, ranks, tmp_path):
    for by_step in ranks(differences_by_step, tmp_path, kind, [2, 5], {}, 2):
        assert not any(by_step.values()), by_step


# -- two processes


def train(folder, kind, learning, devices=1, batch_size=20):
    steps = Steps()
    options = dict(devices=devices, strategy="ddp") if devices > 1 else {}
    trainer = make_trainer(folder, [steps], precision="64-true", max_epochs=2, **options)
    model = build(kind, smooth=True, **learning)
    trainer.fit(model, TinyData(batch_size=batch_size))
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return state(model), metrics, [output["losses"]["head"] for output in steps.outputs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("learning", "batch_size"),
    [({}, 20), (dict(accumulate_grad_batches=2, gradient_clip_val=0.05), 46), (dict(exchange="stage"), 20)],
    ids=["default", "windows", "exchange"],
)
def test_two_processes_train_what_one_trains(kind, learning, batch_size, ranks, tmp_path):
    """Of 75 images the last batch has 15 or 29, which two cannot share evenly."""
    weights, metrics, losses = train(tmp_path, kind, learning, 1, batch_size)
    first, second = ranks(train, tmp_path, kind, learning, 2, batch_size)
    assert same(first[0], second[0])
    assert first[1:] == second[1:]
    assert distance(weights, first[0]) < 1e-9
    assert losses == pytest.approx(first[2], abs=1e-9)
    assert metrics == pytest.approx(first[1], abs=1e-5)  # torchmetrics' mean is a float32
    assert {name: first[1][name] for name in metrics if "error" in name} == {
        name: value for name, value in metrics.items() if "error" in name
    }


# -- numbers that are not finite


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_no_number_changes_nothing(kind, tmp_path):
    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 2:
                batch[0][0, 0, 0, 0] = torch.nan
            self.before = state(pl_module)

    poison, model = Poison(), build(kind, smooth=True)
    with pytest.raises(NonFiniteError, match=r"the loss of head is nan at step 2, learning rate 0\.01: lower its"):
        make_trainer(tmp_path, [poison]).fit(model, TinyData(batch_size=20))
    assert same(poison.before, state(model))


def overflow(folder, kind, devices=1):
    """The last rank, or the only one, has an infinite gradient at the third step."""
    model = build(kind, smooth=True, optimizer=SGDStep(0.01))
    weights = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.now = trainer.global_step == 2 and trainer.global_rank == devices - 1

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            weights.append({f"{number}": parameter.detach().clone() for number, parameter in enumerate(learned)})

    watch = Watch()
    learned = model.network.learners()["head"]
    learned[0].register_hook(lambda gradient: gradient * torch.inf if watch.now else gradient)
    options = with_scaler() | (dict(devices=devices, strategy="ddp") if devices > 1 else {})
    trainer = make_trainer(folder, [watch], max_epochs=2, **options)
    trainer.fit(model, TinyData(batch_size=20))
    trainer.save_checkpoint(folder / "it.ckpt")
    return weights, model.skipped_steps, trainer.precision_plugin.scaler.get_scale(), trainer.global_step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 2])
def test_an_overflow_in_float16_skips_the_step_everywhere(kind, devices, ranks, tmp_path):
    results = [overflow(tmp_path, kind)] if devices == 1 else ranks(overflow, tmp_path, kind, 2)
    for weights, skipped, scale, steps in results:
        assert (skipped, steps) == (1, 8)
        assert scale == 2.0**4 * 2 ** (7 - 1)  # grew seven times, halved once
        assert same(weights[1], weights[2])
        for before, after in ((0, 1), (2, 3)):
            assert not same(weights[before], weights[after])
        for here, there in zip(weights, results[0][0], strict=True):
            assert same(here, there)
    assert torch.load(tmp_path / "it.ckpt", weights_only=True)["skipped_steps"] == 1


# -- prediction


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_predicts(kind, tmp_path):
    data, model = TinyData(batch_size=20), build(kind)
    trainer = make_trainer(tmp_path)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    given = {} if kind == "end to end" else dict(backbone=backbone(smooth=False))
    loaded = type(model).load_from_checkpoint(tmp_path / "it.ckpt", weights_only=True, **given)
    assert same(state(loaded), state(model))
    assert loaded.data_description == data.description()
    images, labels = data.test_dataset[torch.arange(20)]
    images = data.normalize(images)
    with torch.no_grad():
        expected = model.eval()(images).softmax(1)
        assert torch.equal(loaded.eval().predict_step((images, labels), 0), expected)
    (logged,) = make_trainer(tmp_path).test(loaded, data, verbose=False)
    wrong = (expected.argmax(1) != labels).float().mean().item()
    assert logged["test/error"] == pytest.approx(100 * wrong, abs=1e-4)
