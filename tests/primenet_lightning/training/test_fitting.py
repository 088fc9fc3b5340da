"""Fit, choose the best, test it once: the same with a checkpoint on disk, with weights in memory, and at the end."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from tiny import Plain, SGDStep, TinyData, make_model, same, state

from primenet_lightning.models.linear_probe import LinearProbe
from primenet_lightning.training.fitting import BestWeights, Notes, NothingChosen, fit_and_test, quiet_trainer

EPOCHS = 4


class Validations(Callback):
    """The weights at the end of each epoch, and its validation error."""

    def __init__(self):
        self.weights, self.errors = [], []

    def on_validation_end(self, trainer, pl_module):
        self.weights.append(state(pl_module))
        self.errors.append(float(trainer.callback_metrics["val/error"]))


class CountTests(Callback):
    def __init__(self):
        self.count = 0

    def on_test_start(self, trainer, pl_module):
        self.count += 1


def fit(folder, *callbacks, best=None, epochs=EPOCHS, resume_from=None, data=None, **options):
    """A training whose validation error falls and rises again."""
    model = make_model(Plain, capsule_optimizer=SGDStep(0.2), head_optimizer=SGDStep(0.2))
    chooses = [] if best is None else [best]
    trainer = quiet_trainer(epochs, [*callbacks, *chooses], folder, **options)
    fitted = fit_and_test(trainer, model, data or TinyData(batch_size=20), best, resume_from)
    return fitted, model


def on_disk(folder):
    return ModelCheckpoint(folder, filename="best", monitor="val/error", mode="min")


@pytest.mark.parametrize("where", ["disk", "memory", "end"])
def test_what_is_tested_once_is_the_first_of_least_validation_error_or_the_end(where, tmp_path):
    validations, tests = Validations(), CountTests()
    best = {"disk": on_disk(tmp_path), "memory": BestWeights(), "end": None}[where]
    fitted, model = fit(tmp_path, validations, tests, best=best)
    chosen = EPOCHS - 1 if where == "end" else validations.errors.index(min(validations.errors))
    assert min(validations.errors) < validations.errors[-1]  # or nothing would be seen of the choice
    assert same(state(model), validations.weights[chosen])
    assert fitted.validation_error == pytest.approx(validations.errors[chosen])
    assert tests.count == 1
    data = TinyData()
    data.setup()
    images, labels = data.test_dataset[torch.arange(len(data.test_dataset))]
    with torch.no_grad():
        wrong = model.eval()(data.normalize(images)).argmax(1) != labels
    assert fitted.test_error == pytest.approx(100 * wrong.float().mean().item(), abs=1e-4)


@pytest.mark.parametrize("best", [None, "disk", "memory"])
def test_without_a_validation_nothing_is_chosen(best, tmp_path):
    chooser = {None: None, "disk": on_disk(tmp_path), "memory": None}[best]
    with pytest.raises(NothingChosen, match="no best checkpoint was chosen, which takes a validation and checkpoints"):
        fit(tmp_path, best=chooser, epochs=1, limit_val_batches=0)


def test_notes_are_those_of_the_fit_and_go_on_with_it(tmp_path):
    told = []
    notes, best = Notes(lambda epochs, seconds: told.append((epochs, seconds))), on_disk(tmp_path / "whole")
    fitted, _ = fit(tmp_path, notes, best=best)
    assert {name: len(curve) for name, curve in notes.curves.items()} == dict(
        train_accuracy=EPOCHS, train_loss=EPOCHS, validation_accuracy=EPOCHS
    )
    assert [epochs for epochs, _ in told] == [1, 2, 3, 4]
    assert 0 < told[0][1] < notes.seconds == told[-1][1] < fitted.seconds
    heads = notes.losses["head"]
    assert len(heads) == len(notes.routes) == 4 * EPOCHS
    assert set(notes.routes) <= {("block0.k1",), ("block0.k3",), ("block0.k5",)}
    first = sum(loss * images for loss, images in zip(heads[:4], (20, 20, 20, 15), strict=True)) / 75
    assert notes.curves["train_loss"][0] == pytest.approx(first)
    assert fitted.validation_error == pytest.approx(100 - max(notes.curves["validation_accuracy"]), abs=1e-4)

    cut, last = Notes(), ModelCheckpoint(tmp_path / "cut", filename="last")
    fit(tmp_path, cut, last, epochs=2)
    again = Notes()
    fit(tmp_path, again, best=on_disk(tmp_path / "again"), resume_from=tmp_path / "cut" / "last.ckpt")
    assert (again.curves, again.losses, again.routes) == (notes.curves, notes.losses, notes.routes)
    assert again.seconds > cut.seconds


def test_a_network_without_capsules_is_noted_too():
    notes, best = Notes(), BestWeights()
    torch.manual_seed(0)
    probe = LinearProbe(2 * 8 * 8, 3, torch.nn.Flatten())
    fit_and_test(quiet_trainer(2, [notes, best], limit_train_batches=3), probe, TinyData(batch_size=20), best)
    assert len(notes.losses["head"]) == 6
    assert notes.curves["train_loss"][1] == pytest.approx(sum(notes.losses["head"][3:]) / 3)
    assert set(notes.routes) == {()}


def test_a_timer_counts_all_parts_of_a_fit_and_not_its_test(tmp_path):
    timer, best = Timer(), on_disk(tmp_path)
    fitted, _ = fit(tmp_path, timer, best=best, epochs=2)
    saved = torch.load(best.best_model_path, weights_only=True)["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert saved < fitted.seconds
    resumed, _ = fit(tmp_path, Timer(), epochs=3, resume_from=best.best_model_path)
    assert resumed.seconds > saved
