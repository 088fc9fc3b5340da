"""Runs on faulty machines: each goes on, or ends in a sentence with whole checkpoints, and is gone on with to the bit.

A disk without room is tried in ``training/test_checkpoint_files.py``, damaged files in ``test_damaged_files.py``.
"""

import errno
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from tiny import differences

from primenet_lightning.commands import main as commands
from primenet_lightning.commands.loggers import RunLoggers
from primenet_lightning.commands.main import main
from primenet_lightning.commands.wandb_process import FINISH_PATIENCE, finish_wandb, wandb_words
from primenet_lightning.files import REMEDIES
from primenet_lightning.runs.folder import LOCK, RunFolder
from primenet_lightning.runs.lock import alone_in, is_trained
from primenet_lightning.training.checkpoint_files import read_checkpoint

QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--every_n_train_steps=1",
    "--figures=false",
    "--data.batch_size=20",
    "--model.channels=4",
    "--model.head_channels=8",
    "--model.reduce_channels=2",
    "--model.projection_channels=4",
]


class Fault(Callback):
    """Strikes before the third batch."""

    @staticmethod
    def strikes():
        """Nothing."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            self.strikes()


FIT = ["fit", *QUICK, f"--trainer.callbacks={__name__}.Fault"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def strike(monkeypatch):
    """``strike(function)`` has it called in the middle of the fit."""
    return lambda function: monkeypatch.setattr(Fault, "strikes", staticmethod(function))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The last checkpoint of a run to which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert main([*FIT, f"--run={folder}"]) == 0
    return read_checkpoint(folder / "checkpoints/last.ckpt")


def last_of(run):
    return read_checkpoint(RunFolder(run).last)


def assert_same_bits(checkpoint, expected):
    for part in ("state_dict", "optimizer_states", "loops", "global_step"):
        assert differences(checkpoint[part], expected[part]) == []


def drafts():
    return list(Path().rglob("*.part"))


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_read_only_place_is_told_before_anything_is_done(monkeypatch, capsys):
    def refuse(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    assert main([*FIT, "--run=mine"]) == 1
    error = capsys.readouterr().err
    assert "error: run=mine cannot be written (Read-only file system); give a folder in which you may write" in error
    assert not Path("mine").exists()


@pytest.mark.parametrize("folder", ["mine/checkpoints", "mine"])
def test_a_folder_that_vanishes_in_the_middle_costs_no_training(folder, strike, undisturbed, recwarn):
    strike(lambda: shutil.rmtree(folder))
    assert main([*FIT, "--run=mine"]) == 0
    run = RunFolder("mine")
    assert_same_bits(last_of("mine"), undisturbed)
    assert run.best.is_file()
    assert run.is_finished
    assert "depth: 1" in run.read_config()  # without which it could not be gone on with
    told = [str(warning.message) for warning in recwarn]
    assert any("config.yaml is gone, and is written anew" in sentence for sentence in told) == (folder == "mine")


# -- the disk ----------------------------------------------------------------------------------------------------------


class Disk:
    """Refuses to write from now on, with an error of that number, until it is mended."""

    def __init__(self, number, monkeypatch):
        self.number, self.patches = number, monkeypatch

    def fail(self):
        def refuse(*args, **options):
            raise OSError(self.number, os.strerror(self.number))

        def open_(file, mode="r", *args, **options):
            if self.number == errno.EROFS and set(mode) & set("wax+"):
                refuse()
            return original(file, mode, *args, **options)

        original = io.open
        self.patches.setattr(os, "fsync", refuse)
        self.patches.setattr(io, "open", open_)  # which pathlib opens files with

    def mend(self):
        self.patches.undo()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_in_the_middle_leaves_a_whole_checkpoint(number, strike, undisturbed, capsys):
    """The last one from before; of both kinds of errors it is the same file, and one is gone on with."""
    with pytest.MonkeyPatch.context() as patches:
        disk = Disk(number, patches)
        strike(disk.fail)
        with pytest.warns(UserWarning, match="last.ckpt"):
            assert main([*FIT, "--run=mine"]) == 1
        disk.mend()
    error = capsys.readouterr().err
    remedy = REMEDIES.get(number, "give a place in which you may write")
    assert f"best.ckpt cannot be written ({os.strerror(number)}); {remedy}" in error
    assert drafts() == []
    assert last_of("mine")["global_step"] == 2
    if number == errno.EIO:
        strike(lambda: None)
        assert main(["fit", "--resume=mine"]) == 0
        assert_same_bits(last_of("mine"), undisturbed)


# -- the clock, the memory ---------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_changes_nothing(strike, undisturbed, monkeypatch):
    clock, nanoseconds = time.time, time.time_ns

    def jump():
        monkeypatch.setattr(time, "time", lambda: clock() - 86400)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() - 86400 * 10**9)

    strike(jump)
    assert main([*FIT, "--run=mine"]) == 0
    assert_same_bits(last_of("mine"), undisturbed)
    assert 0 < json.loads(RunFolder("mine").summary.read_text())["seconds"] < 600


def test_memory_that_is_used_up_is_told_in_a_sentence(strike, capsys):
    strike(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert main([*FIT, "--run=mine"]) == 1
    error = capsys.readouterr().err
    assert "error: there is not enough memory (" in error
    assert "--data.batch_size" in error
    assert "Traceback" not in error
    assert last_of("mine")["global_step"] == 2


# -- the network -------------------------------------------------------------------------------------------------------


def test_what_could_not_begin_at_wandb_is_ended_before_it_begins_offline(monkeypatch, capsys):
    """Of a server that takes connections and does not answer, W&B's service keeps the run, whose name is then taken."""
    wandb = pytest.importorskip("wandb")
    events = []

    def init(mode, **options):
        events.append(mode)
        raise wandb.errors.CommError("context deadline exceeded")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", lambda exit_code: events.append("ended"))
    loggers = RunLoggers(RunFolder("mine"), [], None)
    trainer = SimpleNamespace(loggers=[loggers.wandb("online")])
    loggers.begin(trainer)
    assert events == ["online", "ended", "offline"]
    assert trainer.loggers == []
    assert "W&B cannot begin the run (context deadline exceeded); it is kept in mine/wandb" in capsys.readouterr().err


def test_a_server_of_wandb_that_is_gone_does_not_hold_the_end_of_a_run(monkeypatch, capsys):
    """W&B would try again for hours, and say nothing."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT", raising=False)
    assert wandb_words()["settings"].finish_timeout == FINISH_PATIENCE

    def finish(exit_code):
        raise TimeoutError

    monkeypatch.setattr(wandb, "finish", finish)
    monkeypatch.setattr(wandb, "run", SimpleNamespace(dir="mine/wandb/run-1/files"))
    finish_wandb()
    error = capsys.readouterr().err
    assert "has not taken all of the run in time" in error
    assert f"send it later with: wandb sync {Path('mine/wandb/run-1')}" in error


# -- two processes -----------------------------------------------------------------------------------------------------


def test_a_second_process_is_kept_from_a_run(strike, undisturbed, capsys):
    """It is asked to begin the same run, and to go on with it, while the first one trains."""
    statuses = []

    def begin_again():
        statuses.append(main([*FIT, "--run=mine"]))
        statuses.append(main(["fit", "--resume=mine"]))

    strike(begin_again)
    assert main([*FIT, "--run=mine"]) == 0
    assert statuses == [1, 1]
    error = capsys.readouterr().err
    assert "run=mine exists already and is not overwritten" in error
    assert f"error: the run mine is being trained by process {os.getpid()} on " in error
    assert_same_bits(last_of("mine"), undisturbed)
    assert not Path("mine", LOCK).exists()


def test_a_process_that_is_lost_is_told_in_a_sentence(strike, capsys):
    """The words are gloo's, after ``kill -9`` of one of two ranks."""

    def lose():
        raise RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:16040: Connection reset "
            "by peer. This is typically caused by a remote worker hanging or bugs in the application."
        )

    strike(lose)
    assert main([*FIT, "--run=mine"]) == 1
    error = capsys.readouterr().err
    assert "primenet: error: another process of this training has ended, and with it all others" in error
    assert "the run goes on from its last checkpoint with --resume" in error
    assert "Traceback" not in error
    assert last_of("mine")["global_step"] == 2


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "),
            "a process that reads the data has ended",
        ),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "not enough memory to load a library",
        ),
    ],
)
def test_what_the_system_does_to_libraries_is_told_in_a_sentence(error, sentence, monkeypatch, capsys):
    """The words are torch's, whose worker was killed, and the loader's, under a limit of the address space."""

    def fail(path):
        raise error

    monkeypatch.setattr(commands, "_function", fail)
    assert main(["fit"]) == 1
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


def test_of_two_that_find_a_folder_free_one_has_it(monkeypatch, capsys):
    """The other one comes between the look at the folder and the first file; what it has is left alone."""
    run = RunFolder("mine")
    with alone_in(run):
        assert run.is_free
        assert main([*FIT, "--run=mine"]) == 1
        assert "the run mine is being trained by process" in capsys.readouterr().err
        assert Path("mine", LOCK).is_file()
    assert list(run.path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows, where runs are not locked")
def test_a_dead_process_keeps_nobody_out():
    run = RunFolder("mine")
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with alone_in(run):
            os.write(tell, b".")
            signal.pause()
    os.read(told, 1)
    assert is_trained(run)
    with pytest.raises(BlockingIOError, match=f"the run mine is being trained by process {child} on"), alone_in(run):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert Path("mine", LOCK).is_file()
    assert not is_trained(run)
    assert run.is_free
    with alone_in(run):
        assert is_trained(run)
