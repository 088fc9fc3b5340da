"""Checkpoints and runs of version 0.1 load, predict the same, and go on to the same end.

That version wrote the files, by `tests/data/write_0_1.py`. Another make of processor may round the last bit otherwise.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import TinyData, make_trainer, state

from primenet_lightning import PaperAdam, PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import MultiExit, OneScale
from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.commands.main import main
from primenet_lightning.datamodules import Augment

DATA = Path(__file__).resolve().parents[2] / "data"
EXPECTED = json.loads((DATA / "expected-0.1.json").read_text(encoding="utf-8"))
KINDS = {
    "checkpoint-0.1": PrimeNet,
    "immediate-0.1": PrimeNet,
    "twin-0.1": PrimeNet,
    "baseline-0.1": OneScale,
    "exits-0.1": MultiExit,
}
PRIMENETS = ["checkpoint-0.1", "immediate-0.1", "twin-0.1"]
BASELINES = ["baseline-0.1", "exits-0.1"]
CLASS_PATHS = dict.fromkeys(PRIMENETS, "primenet_lightning.module.PrimeNet") | {
    "baseline-0.1": "primenet_lightning.baselines.one_scale.OneScale",
    "exits-0.1": "primenet_lightning.baselines.multi_exit.MultiExit",
}
ADAM = partial(PaperAdam, lr=2e-3, eps=1e-3)


def checkpoint(name):
    return DATA / f"{name}.ckpt"


def assert_same_logits(model, name):
    images = torch.sin(torch.arange(6.0 * 2 * 8 * 8)).reshape(6, 2, 8, 8)
    with torch.inference_mode():
        logits = model.eval()(images)
    torch.testing.assert_close(logits, torch.tensor(EXPECTED[name]["logits"]), rtol=1e-6, atol=1e-6)


def assert_same_weights(weights, name):
    expected = torch.load(DATA / "ends-0.1.pt", weights_only=True)[name]
    assert weights.keys() == expected.keys()
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_the_files_are_of_version_0_1(name):
    saved = torch.load(checkpoint(name), weights_only=True)
    assert saved["class_path"] == CLASS_PATHS[name]
    assert saved["epoch"] == 1
    if name in PRIMENETS:
        assert {"update", "overlap"} < saved["hyper_parameters"].keys()


@pytest.mark.parametrize("name", KINDS)
def test_a_class_loads_its_checkpoint_and_predicts_the_same(name):
    model = KINDS[name].load_from_checkpoint(checkpoint(name), weights_only=True)
    assert_same_logits(model, name)


@pytest.mark.parametrize("name", KINDS)
def test_the_class_is_found_by_the_path_it_had(name):
    model = load_model(checkpoint(name))
    assert type(model) is KINDS[name]
    assert not model.training
    assert model.data_description["class_names"] == ["a", "b", "c"]
    assert_same_logits(model, name)


@pytest.mark.parametrize(
    ("name", "backward", "exchange", "step"),
    [
        ("checkpoint-0.1", "learner", "stage", "batch"),
        ("immediate-0.1", "stage", "stage", "stage"),
        ("twin-0.1", "batch", "batch", "batch"),
    ],
)
def test_options_are_read_in_todays_words(name, backward, exchange, step):
    model = PrimeNet.load_from_checkpoint(checkpoint(name), weights_only=True)
    assert not model.hparams.keys() & {"update", "overlap"}
    options = {option: model.hparams[option] for option in ("backward", "exchange", "step")}
    assert options == dict(backward=backward, exchange=exchange, step=step)


@pytest.mark.parametrize("name", PRIMENETS)
def test_training_goes_on_to_the_same_end(name, tmp_path):
    model = PrimeNet.load_from_checkpoint(
        checkpoint(name), weights_only=True, capsule_optimizer=ADAM, head_optimizer=ADAM
    )
    last = LastCheckpoint(tmp_path)
    trainer = make_trainer(tmp_path, [last], enable_checkpointing=True, max_epochs=2)
    data = TinyData(batch_size=10, augmentation=Augment(crop=1, flip=True))
    trainer.fit(model, data, ckpt_path=checkpoint(name), weights_only=True)
    assert_same_weights(state(model), name)
    logged = {key: value.item() for key, value in trainer.callback_metrics.items()}
    # of capsules that were pruned the run that was not stopped still had the values of before
    expected = {key: value for key, value in EXPECTED[name]["logged"].items() if key in logged}
    assert expected.keys() >= {"train/accuracy", "val/accuracy", "val/loss/head"}
    assert {key: logged[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    # what is saved now is of today, and loads as well
    saved = torch.load(last.path, weights_only=True)
    assert not saved["hyper_parameters"].keys() & {"update", "overlap"}
    images = torch.zeros(1, 2, 8, 8)
    assert torch.equal(load_model(last.path)(images), model.eval()(images))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_tested_and_starts_anew(name, tmp_path):
    model = KINDS[name](**EXPECTED[name]["options"])
    trainer = make_trainer(tmp_path)
    trainer.test(model, TinyData(), ckpt_path=checkpoint(name), weights_only=True, verbose=False)
    assert_same_logits(model, name)
    with pytest.raises(ValueError, match=r"of version 0\.1, which was trained by another loop"):
        make_trainer(tmp_path).fit(model, TinyData(), ckpt_path=checkpoint(name), weights_only=True)


@pytest.fixture
def run(tmp_path):
    """A run of the command that was killed in the middle of its second epoch."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(DATA / "config-0.1.yaml", folder / "config.yaml")
    shutil.copy(checkpoint("run-0.1"), folder / "checkpoints/last.ckpt")
    return folder


def test_a_run_is_resumed_to_the_same_end(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    assert main(["fit", f"--resume={run}"]) == 0, capsys.readouterr().err
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    weights = {name.removeprefix("network."): value for name, value in saved["state_dict"].items()}
    assert_same_weights(weights, "run-0.1")
    summary = json.loads((run / "summary.json").read_text())
    expected = {name: value for name, value in EXPECTED["run-0.1"].items() if name != "sha256"}
    (shares,) = expected["routing"]  # by then they had no names, and there is one block
    expected["routing"] = dict(zip(["block0.k3", "block0.k5"], shares, strict=True))
    assert {name: summary[name] for name in expected} == expected


def test_a_run_is_tested(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    shutil.copy(checkpoint("run-0.1"), run / "checkpoints/best.ckpt")
    assert main(["test", f"--run={run}", "--trainer.enable_progress_bar=false"]) == 0, capsys.readouterr().err
    assert "test/error" in capsys.readouterr().out
