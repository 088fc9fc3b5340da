"""MSDNet and IMTA on the command line: from the files of ``configs/systems``, and through a whole run."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny import make_trainer

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import IMTA, MSDNet
from primenet_lightning.commands.main import main
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.runs.summary import result_rows

CONFIGS = Path(__file__).parents[3] / "configs" / "systems"
SMALL = dict(exits=3, scales=2, channels=4, growth=2, exit_channels=6)
FLAGS = ["--data=digits", "--data.augmentation=null", *(f"--model.{name}={value}" for name, value in SMALL.items())]
FLAGS += ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=3", "--trainer.max_epochs=1"]
FLAGS += ["--trainer.enable_progress_bar=false"]
CTRL_C = """
import signal
from lightning.pytorch import Callback

class CtrlC(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            signal.raise_signal(signal.SIGINT)
"""


@pytest.fixture(scope="module")
def first_phase(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    model = MSDNet(in_channels=1, image_size=(8, 8), equilibrium="coarsest", **SMALL)
    trainer = make_trainer(folder, limit_train_batches=2, limit_val_batches=0)
    trainer.fit(model, DigitsDataModule(batch_size=64, normalization="standardize"))
    trainer.save_checkpoint(folder / "first.ckpt")
    return folder / "first.ckpt"


def test_the_file_of_msdnet_says_how_it_is_trained(tmp_path, monkeypatch):
    built = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "primenet_lightning.commands.fit.fit_and_test", lambda trainer, model, data, *_: built.append(model)
    )
    monkeypatch.setattr("primenet_lightning.commands.fit.PrimeNetCLI.after_fit", lambda cli: None)
    file = CONFIGS / "msdnet.yaml"
    content = yaml.safe_load(file.read_text())
    assert content["trainer"]["max_epochs"] == 300
    assert main(["fit", f"--config={file}", "--data=digits", "--data.augmentation=null", "--run=a"]) == 0
    (model,) = built
    assert isinstance(model, MSDNet)
    assert model.plan.ends == [1, 3, 6, 10, 15]
    optimizer = model.optimizer_recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    expected = dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert {name: group[name] for name in expected} == expected
    schedule = model.optimizer_recipe.scheduler(optimizer)
    rates = []
    for _ in range(300):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [rates[epoch] for epoch in (0, 149, 150, 224, 225, 299)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])


def test_the_second_phase_runs_on_a_checkpoint_of_the_first_and_predicts(
    first_phase, tmp_path, monkeypatch, capsys, undrawn
):
    monkeypatch.chdir(tmp_path)
    config = f"--config={CONFIGS / 'imta.yaml'}"
    budget = 40_000
    assert main(["fit", config, *FLAGS, f"--model.trained={first_phase}", f"--model.budget={budget}", "--run=it"]) == 0
    model = load_model("it")
    assert isinstance(model, IMTA)
    assert len(model.thresholds) == 3
    summary = json.loads(Path("it/summary.json").read_text())
    assert summary["model"] == "IMTA"
    with open("it/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [row for row in rows if row["test/budget/multiply_adds"]]
    assert model.exit_costs[0] <= float(row["test/budget/multiply_adds"]) <= model.exit_costs[-1]
    assert float(row["test/error/exit0"]) > 0
    # the summary has what images that leave early come to
    assert summary["budget_multiply_adds"] == pytest.approx(float(row["test/budget/multiply_adds"]))
    assert summary["budget_error"] == pytest.approx(float(row["test/budget/error"]), abs=1e-3)
    assert "test error, leaving early (%)" in {name for name, *_ in result_rows(summary)}
    Image.new("L", (8, 8), 200).save("it.png")
    capsys.readouterr()
    assert main(["predict", "--ckpt=it", "it.png"]) == 0
    assert capsys.readouterr().out.startswith("it.png\t")


def test_a_second_phase_that_has_begun_needs_the_first_one_no_more(first_phase, tmp_path, monkeypatch, undrawn):
    """A run whose first phase is gone is resumed as if it were there, and tested."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "interrupted", raising=False)
    Path("interrupted.py").write_text(CTRL_C)
    shutil.copy(first_phase, "first.ckpt")
    begin = ["fit", f"--config={CONFIGS / 'imta.yaml'}", *FLAGS, "--model.trained=first.ckpt", "--model.budget=40000"]
    assert main([*begin, "--run=whole"]) == 0
    with pytest.raises(SystemExit):
        main([*begin, "--run=cut", "--trainer.callbacks+=interrupted.CtrlC"])
    Path("first.ckpt").unlink()
    assert main(["fit", "--resume=cut"]) == 0
    whole, cut = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "cut"))
    assert cut["exit_thresholds"] == whole["exit_thresholds"]
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][key]), key
    assert main(["test", "--run=cut"]) == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model=imta"], "trained=None leaves the frozen layers as they were drawn"),
        (["--model=msdnet", "--model.budget=10"], "budget=10.0 is below"),
        (["--model=msdnet", "--model.backward=learner"], "backward='learner' cannot be: exits share layers"),
        (["--model=imta", "--model.trained=nowhere"], "nowhere"),
        (["--model=msdnet", "--model.equilibrium=finest"], "equilibrium"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(flags, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["fit", *flags, *FLAGS, "--run=mine"])
    except SystemExit as end:
        status = end.code
    assert status
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("primenet: error: ")]
    assert sentence in error
    assert not Path("mine").exists()
