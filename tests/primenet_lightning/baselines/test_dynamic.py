"""RNP and DT-RAM under the engine: phases, the best checkpoint, exact resuming, two processes, prediction."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from tiny import SGDStep, TinyData, differences, distance, make_trainer, same, state
from torch.optim import Adam

from primenet_lightning.analysis.cost import count_training
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import DTRAMNet, RNPNet
from primenet_lightning.baselines.dt_ram import threshold_curve
from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.nn.systems.phases import Position
from primenet_lightning.training.checkpoints import BestCheckpoint
from primenet_lightning.training.fitting import BestWeights, fit_and_test

TINY = dict(in_channels=2, image_size=(8, 8), num_classes=3)
KINDS = {
    "rnp": (RNPNet, dict(widths=(4, 4, 8), pool_after=(1,), pretraining=0.25, random_pruning=0.25, rounds=1)),
    "dt_ram": (DTRAMNet, dict(steps=3, patch=3, glimpse_width=5, width=6, stop_share=0.5, stop_gradient="sampled")),
}


def make(name):
    torch.manual_seed(3)
    kind, options = KINDS[name]
    return kind(optimizer=SGDStep(0.1), **TINY, **options)


@pytest.mark.parametrize(
    ("make_model", "rate"),
    [
        (partial(RNPNet, widths=(16, 32), pool_after=(1,), schedule="cosine", rounds=2), 1e-2),
        (partial(DTRAMNet, steps=4, patch=4, width=48, first_location="centre", schedule="one_cycle"), 6e-3),
    ],
    ids=["rnp", "dt_ram"],
)
def test_each_learns_digits_in_a_few_hundred_steps(make_model, rate, tmp_path):
    """Chance is an error of 90 %."""
    model = make_model(image_size=(8, 8), optimizer=partial(Adam, lr=rate))
    trainer = make_trainer(tmp_path, max_epochs=12, check_val_every_n_epoch=12)
    trainer.fit(model, DigitsDataModule(limit_train=800, batch_size=40))
    assert trainer.global_step == 240
    assert trainer.callback_metrics["val/error"] < 40


class Crash(Callback):
    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx + 1 == self.batches:
            raise ZeroDivisionError


class Phases(Callback):
    def __init__(self):
        self.phases = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.phases.append(pl_module.network.phase)


def fit(folder, name, callbacks=(), ckpt_path=None, every=1, **options):
    """Two epochs of four batches, in which all phases are; the last checkpoint."""
    last = LastCheckpoint(folder, every)
    trainer = make_trainer(folder, [last, *callbacks], enable_checkpointing=True, max_epochs=2, **options)
    torch.manual_seed(7)
    model = make(name)
    try:
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    except ZeroDivisionError:
        return None
    return torch.load(last.path, weights_only=True)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("after", [3, 6])
def test_a_run_that_crashes_ends_as_the_one_that_did_not(name, after, tmp_path):
    whole = fit(tmp_path / "whole", name)
    assert fit(tmp_path / "parts", name, [Crash(after)]) is None
    resumed = fit(tmp_path / "parts", name, ckpt_path=tmp_path / "parts/last.ckpt")
    assert [where for where in differences(whole, resumed) if "ModelCheckpoint" not in where] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rnp", ["pretraining"] * 2 + ["random_pruning"] * 2 + ["agent"] * 3 + ["backbone"]),
        ("dt_ram", ["attention"] * 4 + ["stopping"] * 4),
    ],
)
def test_the_phases_of_a_fit_and_what_is_chosen(name, expected, tmp_path):
    """Of two validations the first is of a phase without decisions: its error is logged by another name."""
    phases, best = Phases(), BestCheckpoint(tmp_path)
    trainer = make_trainer(tmp_path, [phases, best], enable_checkpointing=True, max_epochs=2)
    model = make(name)
    fitted = fit_and_test(trainer, model, TinyData(batch_size=20), best)
    assert phases.phases == expected
    assert torch.load(best.best, weights_only=True)["epoch"] == 1
    metrics = trainer.callback_metrics
    assert fitted.test_error == metrics["test/error"].item()
    assert metrics["test/multiply_adds"] > 0
    # the checkpoint alone predicts
    loaded = load_model(best.best)
    assert loaded.network.phase == expected[-1]
    images = torch.randn(9, 2, 8, 8)
    torch.testing.assert_close(loaded(images), model.eval()(images))


def test_a_phase_without_decisions_is_validated_under_its_own_name(tmp_path):
    best = BestWeights()
    trainer = make_trainer(tmp_path, [best], enable_checkpointing=True, max_epochs=2, limit_train_batches=1)
    model = make("dt_ram")
    trainer.fit(model, TinyData(batch_size=20))
    assert {"val/attention/error", "val/attention/steps", "val/error", "val/steps"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["val/attention/steps"].item() == 3
    assert best.validation_error == trainer.callback_metrics["val/error"].item()


def train(folder, name, devices=1):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "7")  # put back what it was, since seed_everything leaves it there
        return train_seeded(folder, name, devices)


def train_seeded(folder, name, devices):
    strategy = "ddp" if devices > 1 else "auto"
    trainer = make_trainer(folder, precision="64-true", max_epochs=2, devices=devices, strategy=strategy)
    model = make(name)
    seed_everything(7, verbose=False)  # as the command does; on several processes Lightning goes back to it
    trainer.fit(model, TinyData(batch_size=20))
    metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}
    return state(model), metrics


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_train_what_one_trains(name, ranks, tmp_path):
    """Random numbers of actions, locations and stops are those of the global batch."""
    one, of_one = train(tmp_path, name)
    (first, of_two), (second, _) = ranks(train, tmp_path, name, 2)
    assert same(first, second)
    assert distance(one, first) < 1e-9
    assert of_two == pytest.approx(of_one, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_fit_without_an_end_is_refused(name, tmp_path):
    trainer = make_trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match="whose fit has phases, needs to know its end"):
        trainer.fit(make(name), TinyData(batch_size=20))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.filterwarnings("ignore:precision='bf16-true' keeps")
def test_half_precision(name, precision, tmp_path):
    """The random numbers are float32 all the same: in bfloat16 there are 256 of them."""
    trainer = make_trainer(tmp_path, precision=precision, max_epochs=2)
    trainer.fit(make(name), TinyData(batch_size=20))
    assert trainer.callback_metrics["val/error"].isfinite()


def test_a_run_is_not_resumed_over_another_number_of_steps(tmp_path):
    """Or it would go back to a phase that it has behind it."""
    fit(tmp_path, "dt_ram")
    trainer = make_trainer(tmp_path, max_epochs=3)
    with pytest.raises(ValueError, match="laid out over 8 optimizer steps, and this fit has 12; resume with the same"):
        trainer.fit(make("dt_ram"), TinyData(batch_size=20), ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_a_checkpoint_without_phases_goes_on(tmp_path):
    """As those that were saved before checkpoints had them."""
    fit(tmp_path, "rnp", (Crash(5),))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del saved["phases"]
    torch.save(saved, tmp_path / "older.ckpt")
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.fit(make("rnp"), TinyData(batch_size=20), ckpt_path=tmp_path / "older.ckpt", weights_only=True)
    assert trainer.global_step == 8


def test_training_costs_the_mean_over_the_phases():
    model = make("dt_ram")
    network = model.network
    assert network.shares_of_phases() == {Position(0, 1000): 0.5, Position(500, 1000): 0.5}
    network.shares_of_phases = lambda: {Position(0, 1000): 1.0}
    looking = count_training(network)
    network.shares_of_phases = lambda: {Position(500, 1000): 1.0}
    stopping = count_training(network)
    assert looking > stopping
    del network.shares_of_phases
    assert count_training(network) == round((looking + stopping) / 2)


def test_a_run_is_not_resumed_with_other_shares_of_the_phases(tmp_path):
    fit(tmp_path, "rnp", (Crash(5),))
    kind, options = KINDS["rnp"]
    other = kind(optimizer=SGDStep(0.1), **TINY, **options | {"pretraining": 0.5})
    trainer = make_trainer(tmp_path, max_epochs=2)
    with pytest.raises(ValueError, match="began at other steps; resume with the same shares of phases, or start a new"):
        trainer.fit(other, TinyData(batch_size=20), ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_without_a_stop_policy_every_image_takes_all_glimpses(tmp_path):
    torch.manual_seed(3)
    options = KINDS["dt_ram"][1] | {"stop_share": 0.0}
    model = DTRAMNet(optimizer=SGDStep(0.1), **TINY, **options)
    data = TinyData(batch_size=20)
    best = BestCheckpoint(tmp_path / "checkpoints")
    trainer = make_trainer(tmp_path, [best], enable_checkpointing=True, max_epochs=2)
    fitted = fit_and_test(trainer, model, data, best)
    assert 0 <= fitted.test_error <= 100
    assert trainer.callback_metrics["test/steps"] == 3
    images, labels = torch.zeros(2, 2, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="stop_share=0 has no stop policy that learns; use errors_by_step"):
        threshold_curve(model.network, images, labels, [0.5])


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_answers_as_the_original(name):
    model = make(name).eval()
    images = torch.randn(4, 2, 8, 8)
    torch.testing.assert_close(copy.deepcopy(model)(images), model(images))
