"""A deep stack from YAML, through an interruption, to a prediction: the command, in-process."""

import json
import sys

import pytest
import torch
import yaml
from PIL import Image

from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.commands.main import main

DEEP = """
model:
  class_path: primenet_lightning.PrimeNet
  init_args:
    depth: 2
    pool_every: []
    channels: [4, 6]
    projection_channels: 3
    head_channels: 8
    router: commit
    router_options: {warm_up: 3}
    local_loss: predsim
    local_loss_options: {weight: 0.5}
    local_classifier: layers
    local_classifier_options: {width: 5}
    schedule: one_cycle
data:
  class_path: primenet_lightning.datamodules.DigitsDataModule
  init_args:
    batch_size: 50
    augmentation:
      class_path: primenet_lightning.datamodules.Augment
      init_args: {crop: 1, rotate: 5.0}
trainer:
  accelerator: cpu
  max_epochs: 3
  limit_train_batches: 4
  enable_progress_bar: false
"""
HELPERS = """
import signal
from lightning.pytorch import Callback

class CtrlC(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 5:
            signal.raise_signal(signal.SIGINT)
"""


def network(run):
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in saved.items() if name.startswith("network.")}


def test_committed_run_is_resumed_tested_and_predicts(tmp_path, monkeypatch, capsys, undrawn):
    """Twelve steps; the first block commits after three, the second after six, the interruption is between them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_classes", raising=False)
    (tmp_path / "deep.yaml").write_text(DEEP)
    (tmp_path / "my_classes.py").write_text(HELPERS)
    fit = ["fit", "--config=deep.yaml", "--figures=false"]
    assert main([*fit, "--run=whole"]) == 0
    whole = network(tmp_path / "whole")
    assert len({name.split(".")[4] + name.split(".")[2] for name in whole if ".capsules." in name}) == 2  # one each
    with pytest.raises(SystemExit):
        main([*fit, "--run=cut", "--trainer.callbacks+=my_classes.CtrlC"])
    assert main(["fit", "--resume=cut"]) == 0
    cut = network(tmp_path / "cut")
    assert cut.keys() == whole.keys()
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())

    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    capsys.readouterr()
    assert main(["test", "--run=whole"]) == 0
    assert f"{summary['test_error']:.4f}"[:5] in capsys.readouterr().out
    Image.new("L", (8, 8), 200).save("a.png")
    assert main(["predict", "--ckpt=whole", "a.png"]) == 0
    options = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())["model"]["init_args"]
    assert (options["router"], options["router_options"]) == ("commit", {"warm_up": 3})
    assert load_model("whole").network.prime_blocks[0].router.name == "commit"
