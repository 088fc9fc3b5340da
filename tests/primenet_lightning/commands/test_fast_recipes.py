"""The recipes of ``configs/fast``: what they build, and a whole run of each on small images."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from primenet_lightning.commands.main import main
from primenet_lightning.models.cut import CutNet

CONFIGS = Path(__file__).parents[3] / "configs" / "fast"
SMALL = ["--data=digits", "--data.resize=16", "--model.backbone_options={widths: [4, 8, 8]}"]
QUICK = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.limit_train_batches=3", "--figures=false"]


def options_of(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "shape", "most"),
    [("cifar10", (3, 32, 32), 2_000_000), ("cifar10_small", (3, 32, 32), 410_000), ("mnist", (1, 28, 28), 410_000)],
)
def test_what_predicts_has_no_more_parameters_than_promised(name, shape, most):
    arguments = options_of(name)["model"]["init_args"]
    chosen = {key: arguments[key] for key in ("at", "recipe", "label_smoothing", "backbone_options")}
    net = CutNet("whitened", in_channels=shape[0], image_size=shape[1:], **chosen)
    assert sum(parameter.numel() for parameter in net.backbone.parameters()) <= most
    assert net.strictly_local
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in net.network.objectives]
    first, second, third = arguments["backbone_options"]["widths"]
    if name.startswith("cifar10"):
        # in two parts, the first with a copy of all that follows: two convolutions, two norms' biases, a dense layer
        assert net.network.loss_names == ["part0", "head"]
        assert counts == [9 * second * third + third + 9 * third * third + third + 10 * third]
        return
    # in three parts: a 3x3 convolution and a norm's biases for each later group, and a dense layer
    assert net.network.loss_names == ["part0", "part1", "head"]
    one = 9 * first * second // 2 + second // 2 + 9 * second // 2 * third // 2 + third // 2 + 10 * third // 2
    two = 9 * second * third + third + 10 * third
    assert counts == [one, two]


def test_the_rates_are_those_of_airbench_for_means_over_a_batch():
    for name in ("cifar10", "cifar10_small", "mnist"):
        config = options_of(name)
        arguments = config["model"]["init_args"]["optimizer"]["init_args"]
        batch, momentum = config["data"]["init_args"]["batch_size"], arguments["momentum"]
        kilostep = 1024 * (1 + 1 / (1 - momentum))
        summed = 11.5 / kilostep  # for a loss that is a sum over the batch
        decay = 0.0153 * batch / kilostep  # of a step at that rate
        assert arguments["lr"] == pytest.approx(summed * batch, rel=1e-3)
        assert arguments["lr"] * arguments["weight_decay"] == pytest.approx(decay, rel=1e-3)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_small", "mnist"])
@pytest.mark.parametrize("local", ["true", "false"])
def test_a_run_of_each_is_told_by_yaml_alone(name, local, tmp_path, capsys, undrawn):
    run = tmp_path / "run"
    flags = ["fit", "--config", str(CONFIGS / f"{name}.yaml"), f"--run={run}", f"--model.local={local}"]
    assert main([*flags, *SMALL, *QUICK]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["tested_weights"] == "last epoch"
    assert summary.get("strictly_local") is (True if local == "true" else None)
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    whitened = [value for key, value in checkpoint["state_dict"].items() if key.endswith("whiten.is_whitened")]
    assert [bool(value) for value in whitened] == [True]
