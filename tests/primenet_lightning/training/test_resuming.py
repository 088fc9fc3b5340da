"""A run that crashes anywhere and is resumed ends with the checkpoint of the run that did not, bit for bit."""

import pytest
import torch
from lightning.pytorch import Callback
from tiny import AT_ONCE, TinyData, differences, make_model, make_trainer, same, state, with_scaler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.callbacks.csv_log import ResumableCSVLogger


class Noise(nn.Module):
    """An augmentation that draws random numbers."""

    def forward(self, images):
        shift = torch.randint(0, 9, (len(images), 1, 1, 1), dtype=torch.uint8)
        return images + shift


class Dropping(PrimeNet):
    """Draws random numbers in every forward pass of training."""

    def configure_capsules(self, index, in_shape):
        capsules = super().configure_capsules(index, in_shape)
        for capsule in capsules.values():
            capsule.classifier = nn.Sequential(nn.Dropout(0.3), capsule.classifier)
        return capsules


class Crash(Callback):
    """Raises in the middle of an optimizer step, when some learners have stepped and others have not."""

    def __init__(self, step):
        self.step = step

    def on_train_start(self, trainer, pl_module):
        head = pl_module.capsule_optimizers["head"]
        original = head.step

        def step():
            if trainer.global_step == self.step:
                raise ZeroDivisionError
            return original()

        head.step = step


def schedule(optimizer):
    return ExponentialLR(optimizer, 0.9)


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, 8)


def fit(folder, devices, options, callbacks=(), ckpt_path=None, every=1):
    """Two epochs of four batches; the last checkpoint, and what the last epoch logged."""
    options = dict(options)
    trainer_options = {key: options.pop(key) for key in ("val_check_interval", "precision") if key in options}
    if trainer_options.get("precision") == "16-mixed":
        trainer_options = with_scaler(2.0**12, growth_interval=3)
    if devices > 1:
        trainer_options |= dict(devices=devices, strategy="ddp")
    last = LastCheckpoint(folder, every)
    trainer = make_trainer(
        folder,
        [last, *callbacks],
        enable_checkpointing=True,
        max_epochs=2,
        log_every_n_steps=3,
        **trainer_options,
    )
    schedules = {} if "schedule" in options else dict(capsule_scheduler=schedule, head_scheduler=cosine)
    model = make_model(Dropping, **schedules, **options)
    torch.manual_seed(7)
    try:
        trainer.fit(model, TinyData(batch_size=20, augmentation=Noise()), ckpt_path=ckpt_path, weights_only=True)
    except ZeroDivisionError:
        torch.manual_seed(99)  # nobody has these random numbers again by accident
    # of pruned capsules the Trainer keeps the last values, which a resumed one never had
    names = model.network.loss_names
    logged = {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if "." not in name or name.rpartition("/")[2] in names
    }
    return torch.load(last.path, weights_only=True) | {"logged": logged}, last.path


def resumed(folder, steps, devices=1, options=None, every=1):
    """By crashed step, where the resumed run's last checkpoint differs from the unbroken run's."""
    options = options or {}
    whole, _ = fit(folder / "whole", devices, options)
    assert whole["logged"]["train/accuracy"] > 0
    found = {}
    for step in steps:
        crashed, path = fit(folder / f"{step}", devices, options, [Crash(step)], every=every)
        assert step - every <= crashed["global_step"] <= step
        gone_on, _ = fit(folder / f"{step}", devices, options, ckpt_path=path, every=every)
        found[step] = differences(whole, gone_on)
    return found


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, range(8)),
        (AT_ONCE, [0, 3, 5]),
        (dict(val_check_interval=2, depth=2, scheduler_interval="step"), [1, 2, 6]),
        (dict(inference_routing="best_validation"), [3, 5]),
        (dict(router="commit", router_options={"warm_up": 2}, depth=2, schedule="cosine"), [1, 3, 6]),
        (dict(router="gate", schedule="one_cycle"), [3, 5]),
        (dict(router="commit", router_options={"warm_up": 2}, bias_lr_factor=16, schedule="triangular"), [1, 3, 6]),
        (dict(precision="64-true"), [2, 6]),
        (dict(precision="bf16-true"), [2, 6]),
        (dict(precision="16-mixed"), [2, 6]),
    ],
    ids=[
        "default",
        "immediate",
        "validation in the epoch",
        "best validation",
        "commit and a named schedule",
        "gate and a named schedule",
        "faster biases and a triangle",
        "float64",
        "bfloat16",
        "float16",
    ],
)
def test_resuming_anywhere_is_bit_exact(options, steps, tmp_path):
    found = resumed(tmp_path, steps, options=options)
    assert not any(found.values()), found


def test_resuming_from_an_older_checkpoint_is_bit_exact(tmp_path):
    found = resumed(tmp_path, [2, 6, 7], every=3)
    assert not any(found.values()), found


def test_resuming_with_gradients_that_accumulate_is_bit_exact(tmp_path):
    """Checkpoints lie between windows: five batches an epoch would be two and a half windows."""
    found = resumed(tmp_path, range(4), options=dict(accumulate_grad_batches=2))
    assert not any(found.values()), found


def test_resuming_with_two_processes_is_bit_exact(ranks, tmp_path):
    steps = [2, 5]
    for found in ranks(resumed, tmp_path, steps, 2, dict(val_check_interval=2)):
        assert not any(found.values()), found


def in_the_middle_of_a_window(folder, devices):
    """A validation, and a checkpoint, between two batches whose gradients accumulate; and no validation at all."""

    class Save(Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.global_step == 2:
                trainer.save_checkpoint(folder / "middle.ckpt", weights_only=False)

    def run(callbacks=(), ckpt_path=None, **options):
        options |= dict(devices=devices, strategy="ddp") if devices > 1 else {}
        trainer = make_trainer(folder, callbacks, max_epochs=2, **options)
        model = make_model(accumulate_grad_batches=3)
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
        return state(model)

    each = dict(val_check_interval=1)
    return [run(limit_val_batches=0), run([Save()], **each), run(ckpt_path=folder / "middle.ckpt", **each)]


@pytest.mark.parametrize("devices", [1, 2])
def test_gradients_that_accumulate_outlive_validations_and_checkpoints(devices, ranks, tmp_path):
    """Lightning drops them before a validation."""
    results = ranks(in_the_middle_of_a_window, tmp_path, 2) if devices > 1 else [in_the_middle_of_a_window(tmp_path, 1)]
    for never, each, resumed_run in results:
        parameters = [name for name in never if "running" not in name]
        # on two ranks a validation averages batch norm's statistics, which no gradient sees
        assert all(torch.equal(never[name], each[name]) for name in parameters)
        assert same(each, resumed_run)


def test_a_csv_goes_on_with_trainers_own_ckpt_path(tmp_path):
    def run(name, callbacks=(), ckpt_path=None):
        trainer = make_trainer(
            tmp_path / name,
            [LastCheckpoint(tmp_path / name, 3), *callbacks],
            enable_checkpointing=True,
            max_epochs=2,
            log_every_n_steps=1,
            logger=ResumableCSVLogger(tmp_path / name),
        )
        try:
            trainer.fit(make_model(), TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
        except ZeroDivisionError:
            trainer.logger.save()  # rows of steps that are in no checkpoint
        return (tmp_path / name / "metrics.csv").read_text()

    whole = run("whole")
    assert run("crashed", [Crash(6)]) != whole
    assert run("crashed", ckpt_path=tmp_path / "crashed/last.ckpt") == whole
