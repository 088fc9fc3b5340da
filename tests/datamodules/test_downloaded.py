import hashlib

import pytest

from primenet_lightning.datamodules import CIFAR10DataModule, MNISTDataModule, SVHNDataModule
from primenet_lightning.datamodules.downloaded import check_files

EVERY = pytest.mark.parametrize("data_module", [MNISTDataModule, CIFAR10DataModule, SVHNDataModule])


@EVERY
def test_missing_files_are_named_and_setup_never_downloads(data_module, tmp_path, no_download):
    data = data_module(root=tmp_path, download=True)
    first = next(iter(data.files()))
    with pytest.raises(FileNotFoundError, match=f"{data.name} is not complete under root='{tmp_path}': {first}"):
        data.setup("fit")


@EVERY
def test_prepare_data_does_nothing_without_download(data_module, tmp_path, no_download):
    data_module(root=tmp_path, download=False).prepare_data()
    assert list(tmp_path.iterdir()) == []


@EVERY
def test_prepare_data_leaves_files_alone_that_are_there(data_module, tmp_path, no_download):
    data = data_module(root=tmp_path, download=True)
    for path in data.files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    data.prepare_data()
    assert {path.read_bytes() for path in data.files()} == {b"mine"}


@EVERY
def test_a_damaged_file_is_named_with_the_remedy(data_module, tmp_path):
    data = data_module(root=tmp_path)
    for path in data.files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"cut off")
    message = f"{data.name} is damaged under root='{tmp_path}': {next(iter(data.files()))} .* delete it"
    with pytest.raises(OSError, match=message):
        data.setup("fit")
    data.verify = False
    with pytest.raises(OSError, match=f"{data.name} under root='{tmp_path}' cannot be parsed .*download=True"):
        data.setup("fit")


@EVERY
def test_a_download_that_fails_says_what_to_do(data_module, tmp_path, monkeypatch):
    data = data_module(root=tmp_path)
    monkeypatch.setattr(data, "fetch", lambda: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(OSError, match=r"could not be downloaded .*\(no route\); put its files there by hand"):
        data.prepare_data()


def test_md5_of_a_file_longer_than_one_block(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    md5 = hashlib.md5(content).hexdigest()
    check_files("made up", tmp_path, {tmp_path / "file": md5}, verify=True)
    (tmp_path / "file").write_bytes(content[:-1] + b"?")
    with pytest.raises(OSError, match=f"file does not have the official md5 {md5}"):
        check_files("made up", tmp_path, {tmp_path / "file": md5}, verify=True)
