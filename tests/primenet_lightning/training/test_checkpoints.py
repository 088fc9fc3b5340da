import pytest
import torch

from primenet_lightning.training.checkpoints import AtomicCheckpointIO


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
