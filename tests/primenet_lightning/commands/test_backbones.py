"""Backbones on the command line: by name, from the files of ``configs/backbones``, and through a whole run."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn

from primenet_lightning import CutNet
from primenet_lightning.analysis.features import feature_extractor
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.commands.main import main
from primenet_lightning.commands.short_names import with_full_names
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.models.backbones import build_backbone

CONFIGS = Path(__file__).parents[3] / "configs" / "backbones"
CUT = "primenet_lightning.CutNet"
CTRL_C = """
import signal
from lightning.pytorch import Callback

class CtrlC(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4:
            signal.raise_signal(signal.SIGINT)
"""
QUICK = ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=3", "--trainer.limit_test_batches=1"]
QUICK += ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=2", "--trainer.max_epochs=2"]
SMALL = ["--model=cut", "--model.backbone=resnet20", "--model.backbone_options={width: 4}", "--model.parts=3"]


def printed(flags, capsys):
    """The model that ``--print_config`` tells of."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *flags, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)["model"]


# -- by name


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["--model", "resnet18"], ["--model", CUT, "--model.backbone", "resnet18"]),
        (["--model=vit_tiny", "--run", "x"], ["--model", CUT, "--model.backbone", "vit_tiny", "--run", "x"]),
        (["--run=x", "--model=timm/swin"], ["--run=x", "--model", CUT, "--model.backbone", "timm/swin"]),
        (["--model=torchvision/resnet50"], ["--model", CUT, "--model.backbone", "torchvision/resnet50"]),
        (["--model.help", "resnet18"], ["--model.help", CUT]),
        (["--model", "resnet20"], ["--model", "primenet_lightning.baselines.CifarResNet20"]),
        (["--model", "cutnet"], ["--model", CUT]),
        (["--data", "resnet18"], ["--data", "resnet18"]),
        (["--model", "mine.resnet18"], ["--model", "mine.resnet18"]),
    ],
)  # fmt: skip
def test_names_of_backbones_become_arguments_of_cutnet(given, spelled):
    assert with_full_names(["fit", *given]) == ["fit", *spelled]


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"class_path": "resnet32", "init_args": {"parts": 4, "recipe": {"predsim": {"weight": 0.5}}}}},
        {"model": {"class_path": CUT, "init_args": {"backbone": "resnet32", "recipe": {"predsim": {"weight": 0.5}}}}},
        {"model": "resnet32"},
    ],
)
def test_backbones_and_options_of_recipes_from_yaml_and_flags(content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    recipe = ["--model.recipe={predsim: {weight: 0.5}}"] if content["model"] == "resnet32" else []
    model = printed(["--config=mine.yaml", "--model.parts=4", *recipe], capsys)
    assert model["class_path"] == CUT
    assert (model["init_args"]["backbone"], model["init_args"]["parts"]) == ("resnet32", 4)
    assert model["init_args"]["recipe"] == {"predsim": {"weight": 0.5}}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--model=resnet180"], "--model=resnet180 is no class; did you mean resnet18?"),
        (["--model=convnext_tny"], "--model=convnext_tny is no class; did you mean convnext_tiny?"),
        (["--model=xyz"], "--model=xyz is no class; use one of prime, .*the name of a model of torchvision"),
        (["--model=resnet18", "--model.backbone=swin_t"], "model=resnet18 is itself a backbone, and model.back"),
        (["--model={class_path: swin_t, init_args: {backbone: vit_b_16}}"], "model=swin_t is itself a backbone, and"),
        (["--model=cut", "--model.backbone=resnet34x"], "backbone='resnet34x' is unknown; did you mean"),
        (["--model=timm/levit_99"], "backbone='timm/levit_99' is (unknown|a model of timm, which is not installed)"),
        ([*SMALL, "--model.recipe=dlg"], "recipe='dlg' is unknown; use one of"),
        ([*SMALL, "--model.recipe={predsim: {wait: 1}}"], ".*has 'wait', which recipe='predsim' does not take"),
    ],
)  # fmt: skip
def test_wrong_names_are_refused_in_a_sentence(given, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["fit", *given, "--run=mine"])
    except SystemExit as end:
        status = end.code
    assert status
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("primenet: error: ")]
    assert re.match(f"primenet: error: {sentence}", error), error
    assert not Path("mine").exists()


# -- the files of configs/backbones


class SmallSibling:
    """Builds fewer layers, or narrower ones, of the same kind."""

    OPTIONS: ClassVar = {"resnet32": {"width": 4}, "vit_tiny": {"layers": 2}, "densenet_bc": {"depth": 10, "growth": 4}}

    def __call__(self, name, in_shape, num_classes, pretrained=False, options=None):
        return build_backbone(name, in_shape, num_classes, pretrained, (options or {}) | self.OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", ["resnet18", "resnet32", "vit_tiny", "convnext", "densenet_bc"])
def test_files_of_backbones_say_how_they_are_trained_and_train(name, monkeypatch, capsys, tmp_path):
    file = CONFIGS / f"{name}.yaml"
    content = yaml.safe_load(file.read_text())
    optimizer = content["model"]["init_args"]["optimizer"]["init_args"]
    assert optimizer["betas"] == [0.9, 0.999]
    assert content["trainer"]["max_epochs"] >= 20
    monkeypatch.chdir(tmp_path)
    built = []

    def take_one_batch(trainer, model, data, *_):
        images, labels = next(iter(data.train_dataloader()))
        built.append((model, data.on_after_batch_transfer((images[:8], labels[:8]), 0)))

    monkeypatch.setattr("primenet_lightning.commands.fit.fit_and_test", take_one_batch)
    monkeypatch.setattr("primenet_lightning.models.cut.build_backbone", SmallSibling())
    monkeypatch.setattr("primenet_lightning.commands.fit.PrimeNetCLI.after_fit", lambda cli: None)
    assert main(["fit", f"--config={file}", "--data=digits", "--data.augmentation=null", "--run=a", *QUICK[:1]]) == 0
    ((model, (images, labels)),) = built
    assert isinstance(model, CutNet)
    assert model.network.loss_names[-1] == "head"
    assert len(model.network.stages) == content["model"]["init_args"].get("parts", 2)
    for stage in model.network.stages:
        (output,) = stage.run_learners(images, labels)
        output.loss.backward()
        images = output.feature_map
    assert all(p.grad is not None for p in model.network.parameters() if p.requires_grad)


# -- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of three batches, with all callbacks that a run has by itself."""
    run = tmp_path_factory.mktemp("backbone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.chdir(run.parent)
        assert main(["fit", *QUICK, *SMALL, "--model.recipe=dgl", f"--run={run}"]) == 0
    return run


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "tsne/seconds"} for row in csv.DictReader(file)]


def saved(run, name):
    return torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]


def test_a_run_is_summed_up_with_what_its_local_classifiers_cost(run):
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["model"], summary["backbone"], summary["strictly_local"]) == ("CutNet", "resnet20", True)
    model = load_model(run)
    everything = sum(p.numel() for p in model.parameters())
    own = sum(p.numel() for p in model.backbone.parameters())
    assert summary["parameters"] == everything
    assert summary["local_share_parameters"] == pytest.approx(1 - own / everything)
    assert 0 < summary["local_share_multiply_adds"] < 0.5
    page = (run / "report.html").read_text()
    assert "<h1>CutNet of resnet20 on digits, seed 0</h1>" in page
    assert f"{summary['local_share_parameters']:.1%}" in page
    words = re.sub('src="[^"]*"', "", page.partition("<details>")[0])
    assert "rout" not in words
    assert "apsule" not in words


def test_a_run_has_all_figures_and_every_part_its_curve(run):
    pictures = {path.stem for path in (run / "figures").glob("*.png")}
    assert pictures == {"losses", "error_rates", "tsne", "confusion", "errors"}
    (row,) = [row for row in rows(run) if row["step"] == "2" and row["train/loss/head"]]
    assert all(float(row[f"train/loss/{name}"]) > 0 for name in ("part0", "part1", "head"))
    assert any(row["tsne/neighbour_accuracy"] for row in rows(run))


def test_a_run_predicts_and_is_tested_and_probed(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 200).save("it.png")
    assert main(["predict", f"--ckpt={run}", "it.png"]) == 0
    assert capsys.readouterr().out.startswith("it.png\t")
    assert main(["test", f"--run={run}"]) == 0
    assert main(["probe", str(run), "--epochs=1", "--accelerator=cpu", "--logistic=false"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads((run / "probe.json").read_text())["phase1_test_error"] == summary["test_error"]
    features = feature_extractor(load_model(run))(torch.randn(2, 1, 8, 8))
    assert features.shape == (2, 16)  # what the backbone's last layer sees, and no local classifier


def test_a_run_that_is_interrupted_within_an_epoch_is_resumed_exactly(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_classes", raising=False)
    (tmp_path / "my_classes.py").write_text(CTRL_C)
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, *SMALL, "--model.recipe=dgl", "--trainer.callbacks+=my_classes.CtrlC", "--run=cut"])
    assert main(["fit", "--resume=cut"]) == 0
    one, other = saved(tmp_path / "cut", "last"), saved(run, "last")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows(tmp_path / "cut") == rows(run)


def test_overlapping_parts_are_told_of(tmp_path, monkeypatch, capsys, undrawn):
    monkeypatch.chdir(tmp_path)
    quick = [*QUICK[:-1], "--trainer.max_epochs=1", "--figures=false"]
    assert main(["fit", *quick, *SMALL, "--model.recipe=overlap", "--run=a"]) == 0
    out = capsys.readouterr().out
    assert "not strictly local: gradients cross" in out
    assert "no: gradients cross" in out
    assert not json.loads(Path("a/summary.json").read_text())["strictly_local"]


def test_the_twin_has_one_loss_and_no_local_classifiers(tmp_path, monkeypatch, capsys, undrawn):
    monkeypatch.chdir(tmp_path)
    quick = [*QUICK[:-1], "--trainer.max_epochs=1", "--figures=false"]
    assert main(["fit", *quick, *SMALL, "--model.local=false", "--run=a"]) == 0
    summary = json.loads(Path("a/summary.json").read_text())
    assert "local_share_parameters" not in summary
    assert summary["parameters"] == sum(p.numel() for p in load_model("a").backbone.parameters())


def test_a_model_that_ends_in_a_convolution_is_drawn_too(tmp_path, make_trainer):
    from primenet_lightning.callbacks import FeatureTSNE

    class Small(CutNet):
        def configure_backbone(self):
            return nn.Sequential(
                nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )

    callback = FeatureTSNE(folder=tmp_path)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[callback], accelerator="cpu",
                      limit_train_batches=1, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    model = Small(in_channels=1, at=["2"], image_size=(8, 8), recipe="greedy")
    trainer.fit(model, DigitsDataModule())
    assert (tmp_path / "figures/tsne.png").exists()
