"""Signals in the middle of a step: what is saved is never half a step, and the resumed run is the unbroken one."""

import os
import signal
import sys

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from tiny import TinyData, differences, make_model, make_trainer

from primenet_lightning.training.checkpoints import LastCheckpoint
from primenet_lightning.training.stopping import GracefulStop


class Send(Callback):
    """Sends this process signals: in the middle of an optimizer step, or in a validation."""

    def __init__(self, numbers, step=None, rank=0, validation=None):
        self.numbers, self.step, self.rank, self.validation = numbers, step, rank, validation

    def on_train_start(self, trainer, pl_module):
        head = pl_module.capsule_optimizers["head"]
        original = head.step

        def step():
            if trainer.global_step == self.step and trainer.global_rank == self.rank:
                for number in self.numbers:
                    signal.raise_signal(number)
            return original()

        head.step = step

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if trainer.current_epoch == self.validation and trainer.global_rank == self.rank:
            for number in self.numbers:
                signal.raise_signal(number)


def fit(folder, send=None, devices=1, ckpt_path=None, last=True, **options):
    """Two epochs of four batches; exit status, last checkpoint, steps done."""
    saving = [LastCheckpoint(folder, 100)] if last else []
    callbacks = [*saving, *([send] if send else []), *options.pop("callbacks", [])]
    options = dict(enable_checkpointing=bool(saving), max_epochs=2) | options
    if devices > 1:
        options |= dict(devices=devices, strategy="ddp")
    trainer, status = make_trainer(folder, callbacks, **options), None
    try:
        trainer.fit(make_model(depth=2), TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as stop:
        status = stop.code
    path = folder / "last.ckpt"
    return status, torch.load(path, weights_only=True) if path.exists() else None, trainer.global_step


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole"))[1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("send", "steps"), [(dict(step=1), 2), (dict(step=3), 4), (dict(validation=0), 4)])
def test_a_signal_stops_between_two_batches(number, status, send, steps, whole, tmp_path, capsys):
    before = signal.getsignal(number)
    stopped, saved, done = fit(tmp_path, Send([number], **send))
    assert signal.getsignal(number) is before
    assert (stopped, saved["global_step"], done) == (status, steps, steps)
    errors = capsys.readouterr().err
    assert "Stopping after this batch" in errors
    assert f"Stopped after {steps} steps; go on with: Trainer.fit(..., ckpt_path='{tmp_path}/last.ckpt')" in errors
    ended, gone_on, _ = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert ended is None
    assert differences(whole, gone_on) == []


def test_a_validation_in_the_epoch_is_finished_first(tmp_path):
    _, whole, _ = fit(tmp_path / "whole", val_check_interval=2)
    _, saved, _ = fit(tmp_path, Send([signal.SIGTERM], step=1), val_check_interval=2)
    assert saved["global_step"] == 2
    assert len(saved["callbacks"]["CapsuleLossCurves"]["validation"]) == 1
    _, gone_on, _ = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt", val_check_interval=2)
    assert differences(whole, gone_on) == []


def test_sigterm_in_the_last_epoch_ends_the_process_before_what_follows(whole, tmp_path):
    status, saved, _ = fit(tmp_path, Send([signal.SIGTERM], validation=1))
    assert status == 143
    assert differences(whole, saved) == []


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(tmp_path):
    status, saved, _ = fit(tmp_path, Send([signal.SIGINT, signal.SIGINT], step=2))
    assert status == 1
    assert saved["global_step"] == 0  # that of the start


def test_without_last_checkpoint_it_goes_beside_the_trainers_own(whole, tmp_path, capsys):
    own = ModelCheckpoint(tmp_path / "own")
    options = dict(last=False, enable_checkpointing=True, callbacks=[own])
    fit(tmp_path, Send([signal.SIGTERM], step=1), **options)
    assert f"ckpt_path='{tmp_path}/own/interrupted.ckpt'" in capsys.readouterr().err
    assert torch.load(tmp_path / "own/interrupted.ckpt", weights_only=True)["global_step"] == 2


def test_a_trainer_that_saves_nothing_stops_without_a_checkpoint(tmp_path, capsys):
    status, saved, steps = fit(tmp_path, Send([signal.SIGTERM], step=1), last=False)
    assert (status, saved, steps) == (143, None, 2)
    assert "Stopped after 2 steps; no checkpoint was saved" in capsys.readouterr().err


def stop_one_rank(folder, number, send):
    status, saved, done = fit(folder, Send([number], **send, rank=1), devices=2)
    ended, gone_on, _ = fit(folder, devices=2, ckpt_path=folder / "last.ckpt")
    return status, saved["global_step"], done, ended, gone_on


@pytest.fixture(scope="module")
def whole_of_two(ranks, tmp_path_factory):
    return ranks(fit, tmp_path_factory.mktemp("whole"), None, 2)[0][1]


@pytest.mark.parametrize(
    ("number", "send", "steps"),
    [
        (signal.SIGINT, dict(step=1), 3),
        (signal.SIGTERM, dict(step=1), 3),
        (signal.SIGTERM, dict(validation=0), 4),
    ],
)
def test_a_signal_to_one_rank_alone_stops_both_after_the_same_batch(number, send, steps, whole_of_two, ranks, tmp_path):
    """The other rank hears of it with the next batch's message."""
    first, second = ranks(stop_one_rank, tmp_path, number, send)
    assert first[:4] == (1 if number == signal.SIGINT else 143, steps, steps, None)
    assert second[:4] == (1 if number == signal.SIGINT else 0, steps, steps, None)
    assert differences(whole_of_two, first[4]) == []


# -- SLURM


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A job of one task, with an scontrol that notes what it is told."""
    job = dict(SLURM_JOB_ID="17", SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    return dict(plugins=[SLURMEnvironment(auto_requeue=True)])


@pytest.mark.skipif(sys.platform == "win32", reason="SLURM runs on Linux")
@pytest.mark.parametrize(("send", "steps"), [(dict(step=1), 2), (dict(validation=0), 4), (dict(validation=1), 8)])
def test_slurm_requeues_with_a_checkpoint_of_whole_steps(send, steps, slurm, whole, tmp_path):
    """Lightning's plugin, at its own signal, would save in the middle of the optimizer step."""
    status, last, _ = fit(tmp_path / "run", Send([signal.SIGUSR1], **send), **slurm)
    assert status is None  # SLURM ends the job when it wants to
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    assert differences(whole, last) == []
    (path,) = (tmp_path / "run").glob("hpc_ckpt_*.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == steps
    # the requeued job's Trainer finds it by itself
    _, gone_on, _ = fit(tmp_path / "run", **slurm)
    assert differences(whole, gone_on) == []


# -- other modules


class Counting(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        if batch_idx == 2:
            signal.raise_signal(signal.SIGTERM)
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_it_works_for_any_module(silent, loader, tmp_path):
    options = silent | dict(enable_checkpointing=True, callbacks=[LastCheckpoint(tmp_path), GracefulStop()])
    with pytest.raises(SystemExit) as stop:
        Trainer(**options).fit(Counting(), loader([torch.zeros(1)] * 5))
    assert stop.value.code == 143
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"]["weight"] == 3
