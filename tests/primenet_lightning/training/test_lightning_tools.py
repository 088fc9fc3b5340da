"""What users of Lightning bring along works with the engine, or is refused by a sentence that says what does."""

import csv
import math
import re

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.model_summary import ModelSummary
from tiny import TinyData, make_model, make_trainer
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from primenet_lightning.analysis.cost import count_inference
from primenet_lightning.baselines import OneScale

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(gradient_clip_val=1.0), r"Trainer\(gradient_clip_val=1.0\).*use PrimeNet\(gradient_clip_val=1.0\)"),
        (dict(accumulate_grad_batches=2), r"use PrimeNet\(accumulate_grad_batches=2\)"),
        (dict(callbacks=[EMAWeightAveraging()]), "callbacks has a EMAWeightAveraging.*use AveragedWeights"),
        (dict(callbacks=[WeightAveraging()]), "callbacks has a WeightAveraging.*use AveragedWeights"),
        (dict(callbacks=[StochasticWeightAveraging(1e-2)]), "StochasticWeightAveraging.*use AveragedWeights"),
        (dict(callbacks=[GradientAccumulationScheduler({0: 2})]), r"use PrimeNet\(accumulate_grad_batches=...\)"),
    ],
)
def test_what_the_engine_does_itself_is_refused(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make_trainer(tmp_path, **options).fit(make_model(), TinyData(batch_size=20))


def test_a_barebones_trainer_learns_the_same():
    weights = []
    for options in (dict(barebones=True), dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)):
        model = make_model()
        Trainer(accelerator="cpu", max_epochs=2, **options).fit(model, TinyData(batch_size=20))
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert len(weights[0]) == len(weights[1])
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)


def test_a_compiled_model_is_refused_and_left_as_it_was(tmp_path):
    model = make_model()
    step = model.training_step
    with pytest.raises(ValueError, match="fit the model itself, and compile its parts"):
        make_trainer(tmp_path).fit(torch.compile(model), TinyData(batch_size=20))
    assert model.training_step == step
    make_trainer(tmp_path, limit_train_batches=1).fit(model, TinyData(batch_size=20))


class Automatic(LightningModule):
    """Trained by Lightning itself."""

    def __init__(self):
        super().__init__()
        self.lr = 1e-3
        self.layer = torch.nn.Linear(2 * 64, 3)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def configure_optimizers(self):
        return SGD(self.parameters(), self.lr)


def test_the_learning_rate_finder_raises_the_rate_step_by_step(tmp_path):
    model = make_model()
    options = dict(num_training=10, min_lr=1e-6, max_lr=1.0, early_stop_threshold=None)
    finder = Tuner(make_trainer(tmp_path, max_epochs=9)).lr_find(model, TinyData(batch_size=20), **options)
    automatic = Tuner(make_trainer(tmp_path, max_epochs=9)).lr_find(Automatic(), TinyData(batch_size=20), **options)
    assert finder.results["lr"] == pytest.approx(automatic.results["lr"])
    assert all(math.isfinite(loss) for loss in finder.results["loss"])
    assert model.lr == finder.suggestion()


def test_a_trainer_that_fits_on_lays_its_schedule_out_over_the_epochs_that_are_left(tmp_path):
    model = make_model(schedule="cosine", optimizer=lambda parameters: SGD(parameters, 0.5))
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(model, TinyData(batch_size=20))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, TinyData(batch_size=20))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
    assert trainer.lr_scheduler_configs[0].scheduler.T_max == 8
    # and a run that is resumed from there goes on with it
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    again = make_trainer(tmp_path, max_epochs=3)
    model = make_model(schedule="cosine", optimizer=model.optimizer_recipe.optimizer)
    again.fit(model, TinyData(batch_size=20), ckpt_path=tmp_path / "it.ckpt")
    assert again.global_step == 12


def test_a_usual_trainer_has_one_checkpoint_callback_and_keeps_its_curves(tmp_path):
    best = ModelCheckpoint(
        tmp_path, "{epoch}-{val_error:.1f}", monitor="val/error", mode="min", auto_insert_metric_name=False
    )
    callbacks = [best, EarlyStopping("val/error", mode="min"), LearningRateMonitor()]
    logger = CSVLogger(tmp_path, "logs", "")
    trainer = make_trainer(
        tmp_path, callbacks, max_epochs=2, logger=logger, log_every_n_steps=1, enable_checkpointing=True
    )
    model = make_model(lr=0.125)
    trainer.fit(model, TinyData(batch_size=20))
    assert trainer.checkpoint_callbacks == [best]
    (result,) = trainer.test(model, TinyData(batch_size=20), ckpt_path="best", verbose=False)
    assert 0 <= result["test/error"] <= 100
    with open(tmp_path / "logs" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    rates = [row["lr-CompositeOptimizer/head"] for row in rows]
    assert {float(rate) for rate in rates if rate} == {0.125}
    assert len([row for row in rows if row["train/loss/head"]]) == 8


@pytest.mark.parametrize("model", [make_model(reduce_channels=1), OneScale(40, (8, 8), 3)])
def test_the_summary_of_lightning_counts_operations(model):
    """Two for a multiplication and its addition; nothing is folded here, which would cost once per batch."""
    summary = ModelSummary(model)
    assert summary.total_flops == 2 * count_inference(model.network, as_run=True) > 0


def test_parameters_are_watched_once_a_batch(tmp_path):
    """W&B's ``watch`` registers such a hook."""
    model, calls = make_model(), []
    model.register_forward_hook(lambda module, inputs, output: calls.append((module, len(inputs[0]))))
    make_trainer(tmp_path, limit_train_batches=3, limit_val_batches=0).fit(model, TinyData(batch_size=20))
    assert calls == [(model, 20)] * 3


LABELS = torch.arange(12) % 3
"""Right ones."""


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.rand(12, 3), r"labels have shape \(4, 3\) and dtype torch.float32, but must be class indices"),
        (LABELS.float(), r"labels have shape \(4,\) and dtype torch.float32"),
        (LABELS[:, None], r"labels have shape \(4, 1\) and dtype torch.int64"),
        (LABELS + 1, "labels go from 1 to 3, but num_classes=3 are counted from 0"),
        (LABELS - 1, "labels go from -1 to 1"),
    ],
)
@pytest.mark.parametrize("function", ["fit", "validate", "test"])
def test_labels_that_are_no_class_indices_are_refused_at_the_first_batch(function, labels, sentence, tmp_path):
    loader = DataLoader(TensorDataset(torch.rand(12, 2, 8, 8), labels), batch_size=4)
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        getattr(trainer, function)(make_model(), loader)
    assert trainer.global_step == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16])
def test_labels_may_be_any_integers(dtype, tmp_path):
    loader = DataLoader(TensorDataset(torch.rand(12, 2, 8, 8), LABELS.to(dtype)), batch_size=4)
    trainer = make_trainer(tmp_path)
    trainer.fit(make_model(), loader)
    assert trainer.global_step == 3


def test_a_batch_that_is_no_pair_is_refused(tmp_path):
    loader = DataLoader(TensorDataset(torch.rand(12, 2, 8, 8)), batch_size=4)
    with pytest.raises(ValueError, match=re.escape("a batch must be (images, labels), but this is a list of 1")):
        make_trainer(tmp_path).fit(make_model(), loader)
