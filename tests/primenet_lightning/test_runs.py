import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from primenet_lightning import runs
from primenet_lightning.runs import BestCheckpoint, LastCheckpoint, RunFolder, git_commit, result_table


class Worsening(LightningModule):
    """Counts its epochs in its one weight, while its validation error grows."""

    def __init__(self):
        super().__init__()
        self.epochs = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.epochs

    def validation_step(self, batch, batch_idx):
        self.log("val/error", self.epochs.detach())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder, epochs, resume=None):
    best = BestCheckpoint(folder)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[best, LastCheckpoint(folder)],
    )
    batch = [torch.zeros(1)]
    trainer.fit(Worsening(), batch, batch, ckpt_path=resume)
    return best


def epochs_in(path):
    return torch.load(path, weights_only=True)["state_dict"]["epochs"].item()


def test_last_checkpoint_is_written_when_the_best_is_an_old_one(tmp_path):
    fit(tmp_path, 3)
    assert epochs_in(tmp_path / "best.ckpt") == 1
    assert epochs_in(tmp_path / "last.ckpt") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_best_is_remembered_when_the_folder_was_moved(tmp_path, recwarn):
    fit(tmp_path / "here", 2)
    (tmp_path / "here").rename(tmp_path / "there")
    best = fit(tmp_path / "there", 4, resume=tmp_path / "there/last.ckpt")
    assert epochs_in(tmp_path / "there/best.ckpt") == 1
    assert epochs_in(tmp_path / "there/last.ckpt") == 4
    assert (best.best_model_path, float(best.best_model_score)) == (str(tmp_path / "there/best.ckpt"), 1)
    assert not (tmp_path / "here").exists()
    assert not any("dirpath has changed" in str(warning.message) for warning in recwarn)


def test_best_of_another_folder_is_not_taken_over(tmp_path):
    fit(tmp_path / "one", 2)
    best = fit(tmp_path / "other", 3, resume=tmp_path / "one/last.ckpt")
    assert (best.best_model_path, float(best.best_model_score)) == (str(tmp_path / "other/best.ckpt"), 3)


def test_new_folder_is_not_made_yet_and_never_an_old_one(tmp_path, monkeypatch):
    run = RunFolder.new(None, "digits-compact", parent=tmp_path)
    assert re.fullmatch(r"digits-compact-\d{8}-\d{6}", run.path.name)
    assert not run.path.exists()

    class Noon:
        @staticmethod
        def now():
            return runs_datetime(2024, 5, 6, 12)

    runs_datetime = runs.datetime
    monkeypatch.setattr(runs, "datetime", Noon)
    (tmp_path / "x-20240506-120000").mkdir()
    assert RunFolder.new(None, "x", parent=tmp_path).path.name == "x-20240506-120000-2"

    (tmp_path / "empty").mkdir()
    assert RunFolder.new(tmp_path / "empty", "").path == tmp_path / "empty"
    (tmp_path / "empty/file").touch()
    with pytest.raises(FileExistsError, match=r"exists already and is not overwritten.*--resume"):
        RunFolder.new(tmp_path / "empty", "")


def test_existing_folder_needs_its_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it has no config\.yaml"):
        RunFolder.existing(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert RunFolder.existing(str(tmp_path)).config == tmp_path / "config.yaml"


def test_newest_checkpoint_is_that_written_last(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="stopped before its first epoch ended"):
        _ = run.newest
    run.checkpoints.mkdir()
    last, interrupted = run.checkpoints / "last.ckpt", run.checkpoints / "interrupted.ckpt"
    interrupted.touch()
    assert run.newest == interrupted
    last.touch()
    os.utime(interrupted, (100, 100))
    os.utime(last, (200, 200))
    assert run.newest == last
    os.utime(interrupted, (300, 300))
    assert run.newest == interrupted
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt does not exist"):
        _ = run.best


def test_wandb_id_is_that_of_the_runs_own_files(tmp_path):
    run = RunFolder(tmp_path)
    assert run.wandb_id is None
    path = tmp_path / "wandb/offline-run-20240101_000000-ab12/run-ab12.wandb"
    path.parent.mkdir(parents=True)
    path.touch()
    assert run.wandb_id == "ab12"


def test_summary_is_json(tmp_path):
    path = RunFolder(tmp_path).write_summary({"test_error": 2.5, "routing": [[0.25, 0.75]]})
    assert path == tmp_path / "summary.json"
    assert json.loads(path.read_text()) == {"test_error": 2.5, "routing": [[0.25, 0.75]]}


SUMMARY = {
    "dataset": "mnist",
    "seed": 3,
    "test_error": 1.234,
    "validation_error": 2.0,
    "parameters": 123456,
    "multiply_adds_inference": 2034032,
    "epochs": 10,
    "seconds": 61.26,
    "routing_mode": "majority",
}


def printed(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    lines = [line for line in console.file.getvalue().splitlines() if "│" in line]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def test_table_puts_the_papers_claim_beside_the_measurement():
    claim = {"test_error": 0.58, "parameters": 410_000, "multiply_adds": 2_700_000, "epochs": 150}
    assert printed(result_table({**SUMMARY, "paper": claim})) == [
        ["test error (%)", "1.23", "0.58"],
        ["validation error (%)", "2.00", ""],
        ["parameters", "123,456", "410,000"],
        ["multiply-adds, inference", "2,034,032", "2,700,000"],
        ["epochs", "10", "150"],
        ["training time (s)", "61.3", ""],
    ]
    assert printed(result_table(SUMMARY))[0] == ["test error (%)", "1.23"]


def test_git_commit_is_that_of_the_checkout_only(tmp_path, monkeypatch):
    here = Path(runs.__file__).resolve().parent
    head = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert git_commit() == head.stdout.strip()
    installed = tmp_path / "site-packages/runs.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert git_commit() is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)  # somebody else's repository around it
    assert git_commit() is None
