import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from primenet_lightning.training.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint
from primenet_lightning.training.stopping import GracefulStop


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "folder/it.ckpt"
    io.save_checkpoint({"state_dict": {}, "step": 1}, path)

    def crash(checkpoint, file):
        file.write(b"half")
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", crash)
        with pytest.raises(ZeroDivisionError):
            io.save_checkpoint({"state_dict": {}, "step": 2}, path)
    assert io.load_checkpoint(path)["step"] == 1
    io.save_checkpoint({"state_dict": {}, "step": 3}, path)
    assert io.load_checkpoint(path)["step"] == 3
    assert list(path.parent.iterdir()) == [path]  # what the crash left has been used up


def test_the_part_lies_in_the_same_folder(tmp_path, monkeypatch):
    """From where a rename is one operation of the file system."""
    seen = []
    monkeypatch.setattr(torch, "save", lambda checkpoint, file: seen.append(file.name))
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "it.ckpt")
    assert seen == [str(tmp_path / ".it.ckpt.part")]


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


# -- when they are written ---------------------------------------------------------------------------------------------


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


@pytest.fixture
def fit(silent):
    def fit(folder, epochs, resume=None):
        best = BestCheckpoint(folder)
        options = silent | dict(enable_checkpointing=True, max_epochs=epochs, callbacks=[best, LastCheckpoint(folder)])
        batch = [torch.zeros(1)]
        Trainer(**options).fit(Worsening(), batch, batch, ckpt_path=resume)
        return best

    return fit


def epochs_in(path):
    return torch.load(path, weights_only=True)["state_dict"]["epochs"].item()


def test_last_checkpoint_is_written_when_the_best_is_an_old_one(fit, tmp_path):
    fit(tmp_path, 3)
    assert epochs_in(tmp_path / "best.ckpt") == 1
    assert epochs_in(tmp_path / "last.ckpt") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_best_is_remembered_when_the_folder_was_moved(fit, tmp_path, recwarn):
    fit(tmp_path / "here", 2)
    (tmp_path / "here").rename(tmp_path / "there")
    best = fit(tmp_path / "there", 4, resume=tmp_path / "there/last.ckpt")
    assert epochs_in(tmp_path / "there/best.ckpt") == 1
    assert epochs_in(tmp_path / "there/last.ckpt") == 4
    assert (best.best_model_path, float(best.best_model_score)) == (str(tmp_path / "there/best.ckpt"), 1)
    assert not (tmp_path / "here").exists()
    assert not any("dirpath has changed" in str(warning.message) for warning in recwarn)


def test_best_of_another_folder_is_not_taken_over(fit, tmp_path):
    fit(tmp_path / "one", 2)
    best = fit(tmp_path / "other", 3, resume=tmp_path / "one/last.ckpt")
    assert (best.best_model_path, float(best.best_model_score)) == (str(tmp_path / "other/best.ckpt"), 3)


class Saved(LastCheckpoint):
    """Notes the steps at which it saves."""

    def __init__(self, *args):
        super().__init__(*args)
        self.steps = []

    def save(self, trainer):
        self.steps.append(trainer.global_step)
        return super().save(trainer)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (dict(), [0, 3, 5, 8, 10]),
        (dict(val_check_interval=3), [0, 3, 5, 8, 10]),  # after the validation, then
        (dict(max_steps=7), [0, 3, 5, 7]),
        (dict(limit_val_batches=0), [0, 3, 5, 8, 10]),
        (dict(fast_dev_run=True), [0, 1]),
    ],
)
def test_last_is_saved_every_so_many_steps_and_at_each_epochs_end(options, steps, silent, loader, tmp_path):
    last = Saved(tmp_path, 3)
    options = silent | dict(enable_checkpointing=True, max_epochs=2, callbacks=[last]) | options
    batches = [torch.zeros(1)] * 5
    Trainer(**options).fit(Worsening(), loader(batches), loader(batches[:1]))
    assert last.steps == steps
    assert (tmp_path / "last.ckpt").exists() == ("fast_dev_run" not in options)


def test_impossible_intervals_are_refused(tmp_path):
    with pytest.raises(ValueError, match="every_n_train_steps=0 must be at least 1"):
        LastCheckpoint(tmp_path, 0)


def test_a_full_disk_stops_no_training_and_keeps_the_checkpoint_before(silent, loader, tmp_path, monkeypatch, recwarn):
    last = Saved(tmp_path, 1)
    original = Trainer.save_checkpoint

    def full(self, path, *args, **kwargs):
        if self.global_step == 2:
            raise OSError(28, "No space left on device")
        original(self, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    options = silent | dict(enable_checkpointing=True, callbacks=[last], limit_val_batches=0, max_steps=2)
    Trainer(**options).fit(Worsening(), loader([torch.zeros(1)] * 5))
    assert last.steps == [0, 1, 2]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1
    assert any("No space left on device); training goes on" in str(w.message) for w in recwarn)


@pytest.mark.parametrize("kind", [lambda folder: LastCheckpoint(folder), lambda folder: GracefulStop()])
def test_the_best_checkpoint_is_found_behind_others(kind, silent, tmp_path):
    batch = [torch.zeros(1)]
    best = BestCheckpoint(tmp_path)
    options = silent | dict(enable_checkpointing=True, max_epochs=3)
    trainer = Trainer(**options, callbacks=[kind(tmp_path), best])
    trainer.fit(Worsening(), batch, batch)
    assert trainer.checkpoint_callback is best
    (found,) = trainer.validate(ckpt_path="best", dataloaders=batch, verbose=False)
    assert found["val/error"] == 1


def test_the_last_checkpoint_is_not_taken_for_the_best(silent, tmp_path):
    batch = [torch.zeros(1)]
    trainer = Trainer(**silent | dict(enable_checkpointing=True), callbacks=[LastCheckpoint(tmp_path)])
    trainer.fit(Worsening(), batch, batch)
    with pytest.raises(ValueError, match="not configured to save the best model"):
        trainer.validate(ckpt_path="best", dataloaders=batch)


def test_the_graceful_stop_is_no_checkpoint(silent, tmp_path):
    trainer = Trainer(**silent | dict(enable_checkpointing=True, default_root_dir=tmp_path), callbacks=[GracefulStop()])
    assert [type(callback) for callback in trainer.checkpoint_callbacks] == [ModelCheckpoint]
