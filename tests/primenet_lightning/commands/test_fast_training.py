"""What airbench trains with, from YAML, through an interruption, to the table of results: the command, in-process."""

import json
import sys

import pytest
import torch

from primenet_lightning.commands.main import main

FAST = """
model:
  class_path: primenet_lightning.CutNet
  init_args:
    backbone: resnet20
    parts: 2
    recipe: greedy
    optimizer:
      class_path: torch.optim.SGD
      init_args: {lr: 0.01, momentum: 0.85, nesterov: true, weight_decay: 0.01}
    bias_lr_factor: 64
    schedule: triangular
    test_flips: true
    test_shifts: 1
data:
  class_path: primenet_lightning.datamodules.DigitsDataModule
  init_args:
    batch_size: 50
    resize: 16
    augmentation:
      class_path: primenet_lightning.datamodules.Augment
      init_args: {crop: 2, padding_mode: reflect, flip: alternating}
trainer:
  accelerator: cpu
  max_epochs: 2
  limit_train_batches: 6
  limit_val_batches: 1
  limit_test_batches: 1
  enable_progress_bar: false
  callbacks:
    - class_path: primenet_lightning.callbacks.Lookahead
      init_args: {every: 5, decay: 0.95}
"""
HELPERS = """
import signal
from lightning.pytorch import Callback

class CtrlC(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 8:
            signal.raise_signal(signal.SIGINT)
"""


def saved(run):
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"] | checkpoint["lookahead"]["slow"]


def test_a_run_is_resumed_in_mid_epoch_and_tells_both_errors(tmp_path, monkeypatch, capsys, undrawn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_classes", raising=False)
    (tmp_path / "fast.yaml").write_text(FAST)
    (tmp_path / "my_classes.py").write_text(HELPERS)
    fit = ["fit", "--config=fast.yaml", "--figures=false"]
    assert main([*fit, "--run=whole"]) == 0
    table = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*fit, "--run=cut", "--trainer.callbacks+=my_classes.CtrlC"])
    assert main(["fit", "--resume=cut"]) == 0
    whole, cut = saved(tmp_path / "whole"), saved(tmp_path / "cut")
    assert cut.keys() == whole.keys()
    assert all(torch.equal(value, cut[name]) for name, value in whole.items() if isinstance(value, torch.Tensor))

    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert {name for name in summary if name.startswith("test_error")} == {"test_error", "test_error_flips_shifts"}
    assert "flips and shifts averaged" in table
    assert f"{summary['test_error_flips_shifts']:.2f}" in table
    assert "flips and shifts averaged" in (tmp_path / "whole" / "report.html").read_text()
    capsys.readouterr()
    assert main(["test", "--run=whole"]) == 0
    assert "test/error_flips_shifts" in capsys.readouterr().out
