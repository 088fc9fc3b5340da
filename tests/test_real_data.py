"""The errors that the README states, measured again: minutes of training each, so only with ``pytest -m long``."""

import json
import os

import pytest

from primenet_lightning.commands.main import main


@pytest.mark.long
@pytest.mark.skipif("PRIMENET_DATA" not in os.environ, reason="PRIMENET_DATA names no folder of real data")
@pytest.mark.parametrize(("config", "most"), [("mnist", 2.2), ("cifar10", 45.0)])
def test_ten_epochs_of_compact(config, most, tmp_path, request):
    run = tmp_path / config
    config = request.config.rootpath / "configs" / f"{config}.yaml"
    assert main(["fit", "--config", str(config), "--trainer.max_epochs=10", f"--run={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_error"] <= most
    assert summary["routing_mode"] == "majority"
    assert summary["parameters"] <= 410_000
    assert summary["multiply_adds_inference"] <= 2_700_000


@pytest.mark.long
def test_the_demo(tmp_path):
    run = tmp_path / "digits"
    assert main(["fit", f"--run={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_error"] <= 2.5
    assert summary["seconds"] <= 60
