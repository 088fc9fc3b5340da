"""Checkpoints: no bit of the file may be another."""

import random
import warnings
import zipfile

import pytest
import torch

from primenet_lightning.training.checkpoint_files import read_checkpoint, undamaged, write_checkpoint

CONTENT = {"state_dict": {"weight": torch.arange(300.0), "steps": torch.tensor(3)}, "epoch": 2}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(CONTENT, tmp_path / "it.ckpt")
    return tmp_path / "it.ckpt"


def is_right(loaded):
    weights = loaded["state_dict"]
    return loaded["epoch"] == 2 and all(torch.equal(weights[name], CONTENT["state_dict"][name]) for name in weights)


def test_torch_and_zipfile_read_it_as_well(path):
    assert is_right(read_checkpoint(path))
    assert is_right(torch.load(path, weights_only=True))
    assert is_right(torch.load(path, weights_only=True, mmap=True))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"primenet-sha256:")


def test_no_byte_may_be_another(path):
    content, moments = path.read_bytes(), random.Random(0)
    places = [*range(0, len(content), 40), *range(len(content) - 110, len(content), 2)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= moments.randrange(1, 256)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"it\.ckpt cannot be read \(.*\): it is damaged or no checkpoint; use"):
            read_checkpoint(path)


def test_what_is_cut_off_is_refused(path):
    content = path.read_bytes()
    for length in (0, 1, 30, 1000, len(content) - 90, len(content) - 40, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="it is damaged or no checkpoint"):
            read_checkpoint(path)


def test_of_a_file_of_torch_itself_its_own_check_sums_are_looked_at(tmp_path):
    """They are of the content; damage elsewhere is found, or without effect."""
    torch.save(CONTENT, tmp_path / "it.pt")
    content, moments, refused = (tmp_path / "it.pt").read_bytes(), random.Random(1), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_right(read_checkpoint(tmp_path / "it.pt"))
    for place in range(0, len(content), 25):
        damaged = bytearray(content)
        damaged[place] ^= moments.randrange(1, 256)
        (tmp_path / "it.pt").write_bytes(damaged)
        try:
            assert is_right(read_checkpoint(tmp_path / "it.pt"))
        except ValueError:
            refused += 1
    assert refused > 50


def test_a_file_from_before_zip_files_is_taken_with_a_word(tmp_path):
    torch.save(CONTENT, tmp_path / "it.pt", _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match=r"it\.pt has no check sum"):
        assert is_right(read_checkpoint(tmp_path / "it.pt"))


def test_a_file_put_in_its_place_while_it_is_read_is_not_mixed_with_it(path):
    with undamaged(path) as file:
        write_checkpoint({"state_dict": {}, "epoch": 3}, path)
        assert is_right(torch.load(file, weights_only=True))
    assert read_checkpoint(path)["epoch"] == 3


@pytest.fixture
def limit_of_files():
    """No file may grow beyond so many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1000, 2000, 2700])
def test_a_full_disk_is_told_with_the_file_and_the_remedy(path, limit_of_files, size):
    """torch makes a RuntimeError of it, which says neither."""
    assert path.stat().st_size > size
    limit_of_files(size)
    with pytest.raises(OSError, match=r"it\.ckpt cannot be written \(File too large\); raise the limit on the size of"):
        write_checkpoint(CONTENT, path)
    assert list(path.parent.iterdir()) == [path]
    assert is_right(read_checkpoint(path))
