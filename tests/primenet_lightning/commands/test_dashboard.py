"""The W&B workspace and the sweeps, as far as no network allows."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from primenet_lightning.commands.dashboard import SECTIONS, specification, workspace
from primenet_lightning.commands.main import main

ROOT = Path(__file__).resolve().parents[3]
LOGGED = ["train/loss/block0.k3", "val/loss/head", "val/error", "train/error/block0.k5", "routing/share/block0.k3"]
LOGGED += [
    "routing/switches/block0",
    "routing/margin/block0",
    "routing/least_loss/block0.k3",
    "routing/changes/block0",
    "tsne/silhouette",
    "tsne/neighbour_accuracy",
]


def panels():
    return [panel for section in SECTIONS for panel in section["panels"]]


def test_dry_run_prints_the_specification(capsys):
    assert main(["dashboard", "--entity=me", "--project=mine", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == specification("me", "mine")


@pytest.mark.parametrize("name", LOGGED)
def test_each_curve_has_one_panel(name):
    assert sum(bool(re.search(panel["regex"], name)) for panel in panels() if "regex" in panel) == 1


def test_each_figure_is_there():
    media = [name for panel in panels() for name in panel.get("media", [])]
    figures = ("losses", "error_rates", "routing", "tsne", "feature_maps", "confusion", "errors")
    assert sorted(media) == sorted(f"figures/{name}" for name in figures)


def test_the_workspace_holds_what_the_specification_says():
    pytest.importorskip("wandb_workspaces")
    built = workspace("me", "mine")
    assert [(section.name, len(section.panels)) for section in built.sections] == [
        (section["name"], len(section["panels"])) for section in SECTIONS
    ]
    assert [panel.title for section in built.sections for panel in section.panels] == [p["title"] for p in panels()]


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert main(["dashboard", "--entity=me"]) == 1
    assert "the dashboard needs the package wandb-workspaces" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_a_sweep_names_options_that_the_command_takes(name, tmp_path, monkeypatch):
    """One run as the agent would start it, in a fast_dev_run."""
    sweep = yaml.safe_load((ROOT / f"configs/sweeps/{name}.yaml").read_text())
    assert sweep["metric"] == {"name": "val/error", "goal": "minimize"}
    assert sweep["method"] in ("bayes", "random", "grid")
    given = sweep["parameters"].items()
    arguments = [f"--{key}={choice['values'][0] if 'values' in choice else choice['max']}" for key, choice in given]
    program, *command = sweep["command"]
    assert (program, command[-1], sweep["program"]) == ("${program}", "${args}", "primenet")
    monkeypatch.chdir(ROOT)
    other = ["--data=DigitsDataModule", "--model.stride=1"] if name == "mnist" else []
    command = [*command[:-1], *arguments, *other, "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]
    assert main([*command, f"--run={tmp_path / 'run'}"]) == 0
    assert not (tmp_path / "run").exists()
