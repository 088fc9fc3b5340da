"""RNP and DT-RAM on the command line: by short name, from the files of ``configs/systems``, to a prediction."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from primenet_lightning.commands.main import main

CONFIGS = Path(__file__).parents[3] / "configs" / "systems"
QUICK = ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=3", "--trainer.limit_test_batches=1"]
QUICK += ["--trainer.limit_val_batches=1", "--trainer.enable_progress_bar=false", "--figures=false"]
ON_DIGITS = {
    "rnp": ["--model.widths=[4,8]", "--model.pool_after=[1]"],
    "dt_ram": ["--model.steps=3", "--model.patch=4", "--model.width=8", "--model.locator_width=null"],
}
COSTS = {
    # first layer, a quarter of the second or all of it, as much of the classifier, and the agent
    "rnp": (2304 + 1152 + 20 + 25_088, 2304 + 4608 + 80 + 25_088),
    # one glimpse and one decision, or three and two, and the classifier
    "dt_ram": (4416 + 72 + 80, 4416 + 2 * 4496 + 2 * 72 + 80),
}
"""The least and the most that an image may take, in multiply-adds."""


@pytest.mark.parametrize("name", ON_DIGITS)
def test_a_file_of_recipes_trains_is_tested_and_predicts(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = [f"--config={CONFIGS / name}.yaml", "--data", "digits", "--data.limit_train=200"]
    options = [*QUICK, *ON_DIGITS[name], "--trainer.max_epochs=3"]
    assert main(["fit", *config, *options, "--run=run"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["model"] == {"rnp": "RNPNet", "dt_ram": "DTRAMNet"}[name]
    least, most = COSTS[name]
    assert least <= summary["multiply_adds_taken"] <= most
    assert torch.load("run/checkpoints/best.ckpt", weights_only=True)["epoch"] >= 1
    assert main(["test", "--run=run", "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu"]) == 0
    Image.new("L", (8, 8)).save("dark.png")
    capsys.readouterr()
    assert main(["predict", "--ckpt=run", "dark.png"]) == 0
    assert "dark.png" in capsys.readouterr().out


def test_the_file_of_rnp_for_images_in_colour_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["fit", f"--config={CONFIGS / 'rnp_cifar10.yaml'}", "--print_config"])
    assert end.value.code == 0
    options = yaml.safe_load(capsys.readouterr().out)
    model, data = options["model"]["init_args"], options["data"]
    assert (model["loss_weight"], model["widths"]) == (1.0, [32, 64, 64, 64])
    assert data["class_path"].endswith("CIFAR10DataModule")
    augmentation = data["init_args"]["augmentation"]["init_args"]
    assert (augmentation["crop"], augmentation["flip"]) == (4, True)


@pytest.mark.parametrize("name", ON_DIGITS)
def test_short_names_and_wrong_options(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = {
        "rnp": ("--model.penalty=0.5", "penalty=0.5 must be below 0"),
        "dt_ram": ("--model.threshold=7", "threshold=7.0 is no probability"),
    }
    option, words = wrong[name]
    assert main(["fit", "--model", name, option, "--run=run"]) != 0
    output = capsys.readouterr()
    assert words in output.out + output.err
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ON_DIGITS)
def test_the_files_say_how_they_are_used(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith(f"# primenet fit --config configs/systems/{name}.yaml\n")
    assert yaml.safe_load(text)["data"]["class_path"].endswith("MNISTDataModule")
