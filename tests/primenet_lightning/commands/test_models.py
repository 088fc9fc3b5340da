"""What the command line trains: any `LocalLearner`, by class path, from flags and from YAML."""

import csv
import json
import re
import sys

import pytest
import torch
import yaml
from PIL import Image

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import CifarResNet20
from primenet_lightning.commands.main import main

RESNET = "--model=primenet_lightning.baselines.CifarResNet20"
QUICK = ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=3", "--trainer.limit_test_batches=1"]
QUICK += ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=2"]
CTRL_C = """
import signal
from lightning.pytorch import Callback

class CtrlC(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4:
            signal.raise_signal(signal.SIGINT)
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_classes", raising=False)
    (tmp_path / "my_classes.py").write_text(CTRL_C)
    return tmp_path


def saved(run, name):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "tsne/seconds"} for row in csv.DictReader(file)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- a baseline


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """Two epochs of three batches of a ResNet, with all callbacks that suit it."""
    run = tmp_path_factory.mktemp("baseline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.chdir(run.parent)
        assert main(["fit", *QUICK, RESNET, "--trainer.max_epochs=2", f"--run={run}"]) == 0
    return run


def test_a_baseline_is_trained_tested_and_summed_up_without_a_word_of_routing(baseline, capsys):
    summary = json.loads((baseline / "summary.json").read_text())
    assert (summary["model"], summary["dataset"], summary["epochs"]) == ("CifarResNet20", "digits", 2)
    assert summary["parameters"] == sum(p.numel() for p in CifarResNet20(1, (8, 8), 10).parameters())
    assert summary["multiply_adds_training"] > 2 * summary["multiply_adds_inference"] > 0
    assert not {"routing", "routing_mode", "paper"} & summary.keys()
    page = (baseline / "report.html").read_text()
    assert "<h1>CifarResNet20 on digits, seed 0</h1>" in page
    words = re.sub('src="[^"]*"', "", page.partition("<details>")[0])
    assert "rout" not in words
    pictures = {path.stem for path in (baseline / "figures").glob("*.png")}
    assert {"losses", "error_rates", "confusion", "errors"} <= pictures
    assert not {"routing", "feature_maps"} & pictures
    assert [row["step"] for row in rows(baseline) if row["train/loss/head"]] == ["1", "2", "4", "5"]


def test_a_baseline_is_validated_tested_probed_and_predicts(baseline, elsewhere, capsys):
    summary = json.loads((baseline / "summary.json").read_text())
    capsys.readouterr()
    assert main(["test", f"--run={baseline}"]) == 0
    assert f"{summary['test_error']:.4f}"[:5] in capsys.readouterr().out
    Image.new("L", (8, 8), 200).save("it.png")
    assert main(["predict", f"--ckpt={baseline}", "it.png"]) == 0
    assert capsys.readouterr().out.startswith("it.png\t")
    assert type(load_model(baseline)) is CifarResNet20
    assert main(["probe", str(baseline), "--epochs=1", "--accelerator=cpu", "--logistic=false"]) == 0
    assert json.loads((baseline / "probe.json").read_text())["phase1_test_error"] == summary["test_error"]


def test_a_baseline_that_is_interrupted_within_an_epoch_is_resumed_exactly(baseline, elsewhere, capsys):
    stop = ["--trainer.callbacks+=my_classes.CtrlC", "--trainer.max_epochs=2"]
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, RESNET, *stop, "--run=cut"])
    assert "Stopped after 5 steps; go on with: primenet fit --resume cut" in capsys.readouterr().err
    assert main(["fit", "--resume=cut"]) == 0
    for name in ("best", "last"):
        assert same(saved(elsewhere / "cut", name)["state_dict"], saved(baseline, name)["state_dict"])
    assert rows(elsewhere / "cut") == rows(baseline)


# -- options by flag and by YAML


@pytest.mark.parametrize(
    ("yaml_file", "flags"),
    [
        (None, ["--model.depth=2"]),
        (None, ["--model.init_args.depth=2"]),
        (None, ["--model=PrimeNet", "--model.depth=2"]),
        ({"model": {"depth": 2}}, []),
        ({"model": {"init_args": {"depth": 2}}}, []),
        ({"model": {"class_path": "primenet_lightning.PrimeNet", "init_args": {"depth": 2}}}, []),
        ({"model": {"depth": 3}}, ["--model.depth=2"]),
    ],
)
def test_primenet_is_the_model_unless_another_is_named(yaml_file, flags, elsewhere, capsys):
    model = printed(yaml_file, flags, capsys)
    assert model["class_path"] == "primenet_lightning.PrimeNet"
    assert model["init_args"]["depth"] == 2


@pytest.mark.parametrize(
    ("yaml_file", "flags"),
    [
        (None, [RESNET, "--model.schedule=cosine"]),
        (None, ["--model=primenet_lightning.baselines.CifarResNet20", "--model.init_args.schedule=cosine"]),
        ({"model": {"class_path": "primenet_lightning.baselines.CifarResNet20"}}, ["--model.schedule=cosine"]),
        ({"model": {"depth": 2}}, [RESNET, "--model.schedule=cosine"]),
    ],
)
def test_another_model_has_options_of_its_own_and_those_of_the_engine(yaml_file, flags, elsewhere, capsys):
    model = printed(yaml_file, flags, capsys)
    assert model["class_path"] == "primenet_lightning.baselines.CifarResNet20"
    assert model["init_args"]["schedule"] == "cosine"
    assert "depth" not in model["init_args"]


def printed(yaml_file, flags, capsys):
    """The model that ``--print_config`` tells of."""
    if yaml_file is not None:
        with open("options.yaml", "w") as file:
            yaml.safe_dump(yaml_file, file)
        flags = ["--config=options.yaml", *flags]
    with pytest.raises(SystemExit) as end:
        main(["fit", *flags, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]


# -- words of version 0.1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--model.update=immediate"], "update='immediate' is of version 0.1; it is called step:"),
        (["--model.overlap", "true"], "overlap=True is of version 0.1; it is called exchange:"),
        (["--model.init_args.backward=capsule"], "backward='capsule' is of version 0.1; use backward='learner'"),
        (["--model={class_path: PrimeNet, init_args: {overlap: false}}"], "overlap=False is of version 0.1"),
        (["--config=old.yaml"], "update='end_of_batch' is of version 0.1"),
        (["--config", "old.yaml"], "update='end_of_batch' is of version 0.1"),
        (["--config=plain.yaml"], "backward='fused' is of version 0.1; use backward='batch'"),
    ],
)
def test_options_of_version_0_1_are_refused_where_a_user_writes_them(given, sentence, elsewhere, capsys):
    old = {"class_path": "primenet_lightning.PrimeNet", "init_args": {"update": "end_of_batch"}}
    (elsewhere / "old.yaml").write_text(yaml.safe_dump({"model": old}))
    (elsewhere / "plain.yaml").write_text(yaml.safe_dump({"model": {"backward": "fused"}}))
    assert main(["fit", *given, "--run=mine"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"primenet: error: {sentence}")
    assert not (elsewhere / "mine").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_version_0_1_is_resumed_in_todays_words(elsewhere):
    small = ["--model.channels=4", "--model.head_channels=8", "--model.step=stage", "--model.exchange=stage"]
    fit = ["fit", *QUICK, *small, "--figures=false"]
    assert main([*fit, "--trainer.max_epochs=2", "--run=whole"]) == 0
    assert main([*fit, "--trainer.max_epochs=1", "--run=old"]) == 0
    config = elsewhere / "old" / "config.yaml"
    options = yaml.safe_load(config.read_text())
    todays = dict(options["model"]["init_args"])
    learning = options["model"]["init_args"]
    assert [learning.pop(name) for name in ("step", "exchange", "backward")] == ["stage", "stage", "stage"]
    learning |= {"update": "immediate", "overlap": False, "backward": "block"}
    config.write_text(yaml.safe_dump(options))
    assert main(["fit", "--resume=old", "--trainer.max_epochs=2"]) == 0
    assert same(saved(elsewhere / "old", "last")["state_dict"], saved(elsewhere / "whole", "last")["state_dict"])
    assert yaml.safe_load(config.read_text())["model"]["init_args"] == todays
    assert main(["validate", "--run=old"]) == 0
