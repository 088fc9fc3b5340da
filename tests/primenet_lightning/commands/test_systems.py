"""CondenseNet and ONE on the command line: by name, from the files of ``configs/systems``, and through a whole run."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import CondenseNet, TargetResNet, export
from primenet_lightning.commands.main import main
from primenet_lightning.commands.short_names import SIZES, with_full_names

CONFIGS = Path(__file__).parents[3] / "configs" / "systems"
CONDENSENET = "primenet_lightning.baselines.CondenseNet"
QUICK = ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=3", "--trainer.limit_test_batches=1"]
QUICK += ["--trainer.enable_progress_bar=false", "--trainer.max_epochs=2", "--figures=false"]
SMALL = {
    "condensenet": ["--model=condensenet", "--model.layers=[1, 1]", "--model.growth=[4, 8]", "--model.lasso=1e-4"],
    "one": ["--model=one", "--model.depth=8"],
}
CTRL_C = """
import signal
from lightning.pytorch import Callback

class CtrlC(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGINT)
"""


def printed(flags, capsys):
    """The options that ``--print_config`` tells of."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *flags, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


# -- by name


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["--model", "condensenet86"], ["--model", CONDENSENET, "--model.size", "86"]),
        (["--model=condensenet_light94"], ["--model", CONDENSENET, "--model.size", "light94"]),
        (["--model.help", "condensenet50"], ["--model.help", CONDENSENET]),
        (["--model", "one"], ["--model", "primenet_lightning.baselines.OneNet"]),
        (["--data", "condensenet50"], ["--data", "condensenet50"]),
    ],
)
def test_names_of_sizes_become_arguments(given, spelled):
    assert with_full_names(["fit", *given]) == ["fit", *spelled]


@pytest.mark.parametrize("name", ["condensenet50", "condensenet_light94"])
def test_sizes_are_understood(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump({"model": {"class_path": name, "init_args": {"dropout": 0.1}}}))
    for flags in ([f"--model={name}", "--model.dropout=0.1"], ["--config=mine.yaml"]):
        model = printed(flags, capsys)["model"]
        assert model["class_path"] == CONDENSENET
        assert (model["init_args"]["size"], model["init_args"]["dropout"]) == (SIZES[name].value, 0.1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--model=condensenet_86"], "--model=condensenet_86 is no class; did you mean condensenet86?"),
        (["--model=condensenet86", "--model.size=50"], "model=condensenet86 is itself a size, and model.size=50 anot"),
        (["--model=condensenet", "--model.growth=[6, 8, 8]"], "growth=6 must be a multiple of groups=4, which share"),
        (["--model=condensenet", "--model.lasso=1", "--model.learned=false"], "lasso=1.0 has nothing to do where"),
        (["--model=one", "--model.depth=21"], r"depth=21 must be 6 n \+ 2"),
        (["--model=one", "--trainer.max_epochs=-1", "--trainer.max_steps=9"], "ramp_epochs=None goes by the number of"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(given, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["fit", *given, "--run=mine"])
    except SystemExit as end:
        status = end.code
    assert status
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("primenet: error: ")]
    assert re.match(f"primenet: error: {sentence}", error), error
    assert not Path("mine").exists()


@pytest.mark.parametrize(("name", "epochs"), [("condensenet", 300), ("one", 300)])
def test_recipes_are_those_of_the_authors(name, epochs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = printed([f"--config={CONFIGS / name}.yaml"], capsys)
    learning = options["model"]["init_args"]
    sgd = learning["optimizer"]["init_args"]
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.1, 0.9, 1e-4)
    assert sgd["nesterov"] == (name == "condensenet")
    assert options["trainer"]["max_epochs"] == epochs
    if name == "one":
        assert learning["scheduler"]["init_args"]["milestones"] == [151, 225]
        assert options["data"]["init_args"]["batch_size"] == 128
    else:
        assert (learning["size"], learning["schedule"]) == ("86", "cosine")
        assert options["data"]["init_args"]["batch_size"] == 64


# -- a whole run


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_classes", raising=False)
    (tmp_path / "my_classes.py").write_text(CTRL_C)
    return tmp_path


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("name", "kind"), [("condensenet", CondenseNet), ("one", TargetResNet)])
def test_a_run_is_interrupted_resumed_summed_up_and_exported(name, kind, elsewhere, capsys):
    assert main(["fit", *QUICK, *SMALL[name], "--run=whole"]) == 0
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, *SMALL[name], "--trainer.callbacks+=my_classes.CtrlC", "--run=cut"])
    if name == "condensenet":  # a longer fit is refused, and leaves the run's options as they were
        assert main(["fit", "--resume=cut", "--trainer.max_epochs=4"]) == 1
        assert "were laid out over 6 optimizer steps, and this fit has 12; resume" in capsys.readouterr().err
    assert main(["fit", "--resume=cut"]) == 0
    whole, cut = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "cut"))
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][key]), key
    # the cost is that of what is exported, and that predicts alone
    exported = load_model(export("cut/checkpoints/last.ckpt", "left.ckpt"))
    assert type(exported) is kind
    summary = json.loads(Path("cut/summary.json").read_text())
    assert summary["parameters"] == sum(parameter.numel() for parameter in exported.network.parameters())
    Image.new("L", (8, 8), 200).save("it.png")
    capsys.readouterr()
    assert main(["predict", "--ckpt=left.ckpt", "it.png"]) == 0
    answer = capsys.readouterr().out
    assert answer.startswith("it.png\t")
    assert main(["predict", "--ckpt=cut/checkpoints/last.ckpt", "it.png"]) == 0
    assert capsys.readouterr().out == answer
