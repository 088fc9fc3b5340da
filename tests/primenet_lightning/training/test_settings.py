"""What a resumed run's optimizers train with: a change is followed to the number, or refused in a sentence."""

import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from tiny import TinyData, make_model, make_trainer
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, SequentialLR, StepLR

from primenet_lightning.training.adam import PaperAdam

EPOCH_STEPS = 4  # of 75 images in batches of 20


class Rates(Callback):
    """Keeps the learning rate of every step, by learner."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})


@pytest.fixture
def fit(tmp_path):
    """Fit a small model, and keep its last state; with ``resume`` go on from there."""

    def run(epochs=1, resume=False, rates=None, **options):
        trainer = make_trainer(tmp_path, [rates] if rates else [], max_epochs=epochs)
        path = tmp_path / "it.ckpt"
        model = make_model(**options)
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=path if resume else None)
        trainer.save_checkpoint(path)
        return trainer

    return run


def both(optimizer):
    return dict(capsule_optimizer=optimizer, head_optimizer=optimizer)


def two_schedules(optimizer):
    return SequentialLR(optimizer, [StepLR(optimizer, 1), StepLR(optimizer, 2)], milestones=[1])


def groups_of(trainer):
    return {group["name"]: group for group in trainer.optimizers[0].param_groups}


def test_a_new_learning_rate_is_followed_and_the_others_stay(fit):
    fit(**both(partial(AdamW, lr=1e-3)))
    trainer = fit(2, resume=True, capsule_optimizer=partial(AdamW, lr=1e-3), head_optimizer=partial(AdamW, lr=1e-5))
    rates = {name: group["lr"] for name, group in groups_of(trainer).items()}
    assert rates["head"] == pytest.approx(1e-5)
    assert {rate for name, rate in rates.items() if name != "head"} == {1e-3}


def test_lr_for_all_is_followed(fit):
    fit(lr=1e-3)
    trainer = fit(2, resume=True, lr=1e-4)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([1e-4] * 4)


@pytest.mark.parametrize(
    ("before", "now", "key", "value"),
    [
        (partial(AdamW, weight_decay=0.1), partial(AdamW, weight_decay=0.3), "weight_decay", 0.3),
        (partial(SGD, lr=0.1), partial(SGD, lr=0.1, momentum=0.5), "momentum", 0.5),
        (Adam, partial(Adam, betas=(0.5, 0.9)), "betas", (0.5, 0.9)),
        (Adam, partial(Adam, amsgrad=False, eps=1e-3), "eps", 1e-3),
    ],
)
def test_other_settings_are_followed(before, now, key, value, fit):
    fit(**both(before))
    assert groups_of(fit(2, resume=True, **both(now)))["head"][key] == value


def test_what_is_not_changed_goes_on_as_saved(fit, tmp_path):
    """Also where a user has changed it in the course of the run, as by a callback."""
    trainer = fit(**both(partial(AdamW, lr=1e-3)))
    for group in trainer.optimizers[0].param_groups:
        group["lr"] = 7e-4
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    assert groups_of(fit(2, resume=True, **both(partial(AdamW, lr=1e-3))))["head"]["lr"] == 7e-4


def test_a_new_rate_goes_on_in_proportion_along_the_schedule(fit, tmp_path):
    steps = 2 * EPOCH_STEPS
    optimizer = {rate: both(partial(SGD, lr=rate)) for rate in (0.1, 0.3)}
    whole = make_trainer(tmp_path, max_epochs=2)

    class Save(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "it.ckpt")

    whole.callbacks.append(Save())
    whole.fit(make_model(schedule="cosine", **optimizer[0.1]), TinyData(batch_size=20))
    rates = Rates()
    fit(2, resume=True, rates=rates, schedule="cosine", **optimizer[0.3])
    expected = [0.3 * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(EPOCH_STEPS, steps)]
    assert [step["head"] for step in rates.rates] == pytest.approx(expected)


def test_a_new_rate_goes_on_along_a_schedule_of_the_capsules(fit):
    schedule = dict(capsule_scheduler=partial(StepLR, step_size=1, gamma=0.5))
    fit(**both(partial(SGD, lr=0.1)), **schedule)
    groups = groups_of(fit(2, resume=True, **both(partial(SGD, lr=0.4)), **schedule))
    assert groups["head"]["lr"] == pytest.approx(0.4)
    assert groups["block0.k3"]["lr"] == pytest.approx(0.4 / 4)


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        (both(Adam), both(SGD), "the optimizer of '.*' was Adam in the run that is resumed, and is SGD now"),
        (
            both(PaperAdam),
            both(AdamW),
            "was PaperAdam in the run that is resumed, and is AdamW now, which cannot",
        ),
        ({}, dict(schedule="cosine"), "schedule was None in the run that is resumed, and is 'cosine' now"),
        (dict(schedule="step"), {}, "schedule was 'step' in the run that is resumed, and is None now"),
        (dict(schedule="step"), dict(schedule="cosine"), "schedule was 'step' in the run that is resumed"),
        (
            dict(capsule_scheduler=partial(StepLR, step_size=1)),
            dict(capsule_scheduler=partial(CosineAnnealingLR, T_max=3)),
            "the schedule of 'block0.k.' was StepLR in the run that is resumed, and is CosineAnnealingLR now",
        ),
        ({}, dict(capsule_scheduler=partial(StepLR, step_size=1)), "the schedule of 'block0.k.' was None"),
        (
            dict(lr=0.1, capsule_scheduler=two_schedules),
            dict(lr=0.2, capsule_scheduler=two_schedules),
            "lr of 'block0.k.' was changed, and its SequentialLR cannot follow",
        ),
    ],
)
def test_what_cannot_go_on_is_refused(before, now, sentence, fit):
    fit(**before)
    with pytest.raises(ValueError, match=sentence):
        fit(2, resume=True, **now)


def test_a_checkpoint_that_does_not_tell_is_compared_by_its_groups(fit, tmp_path):
    fit(**both(Adam))
    saved = torch.load(tmp_path / "it.ckpt", weights_only=True)
    del saved["optimizer_settings"]
    torch.save(saved, tmp_path / "it.ckpt")
    assert groups_of(fit(2, resume=True, lr=1e-5, **both(Adam)))["head"]["lr"] == pytest.approx(1e-5)
    torch.save(saved, tmp_path / "it.ckpt")
    with pytest.raises(ValueError, match="was of another class in the run that is resumed, and is SGD now"):
        fit(2, resume=True, **both(SGD))
