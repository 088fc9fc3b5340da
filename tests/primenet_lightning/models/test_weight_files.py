"""Weights read without the library of their format, against that library."""

import importlib.util

import pytest
import torch

from primenet_lightning.models import weight_files
from primenet_lightning.models.weight_files import read_weights

TENSORS = {
    "matrix": torch.randn(3, 4),
    "half": torch.randn(5).half(),
    "brain": torch.randn(2, 1, 3).bfloat16(),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
}


@pytest.fixture
def file(tmp_path):
    pytest.importorskip("safetensors.torch").save_file(TENSORS, tmp_path / "a.safetensors", {"format": "pt"})
    return tmp_path / "a.safetensors"


def test_both_readers_read_the_same(file, monkeypatch):
    by_library = read_weights(file)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plainly = read_weights(file)
    assert plainly.keys() == by_library.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert plainly[name].dtype == by_library[name].dtype == tensor.dtype
        assert plainly[name].shape == tensor.shape
        assert torch.equal(plainly[name], tensor)
        assert torch.equal(by_library[name], tensor)


@pytest.mark.parametrize("change", [lambda content: content[:-3], lambda content: content[:20], lambda content: b"no"])
@pytest.mark.parametrize("has_library", [True, False])
def test_what_is_not_whole_is_refused(change, has_library, file, monkeypatch):
    file.write_bytes(change(file.read_bytes()))
    if not has_library:
        monkeypatch.setattr(weight_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"a\.safetensors is no whole safetensors file .*; copy it again"):
        read_weights(file)
