"""Builders that the tests of the data modules share."""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from primenet_lightning.datamodules import ImageDataModule

Array = npt.NDArray[Any]
Split = tuple[Array, Array]
"""Images and labels."""


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets, or a skipped test."""
    root = os.environ.get("PRIMENET_DATA")
    if root is None:
        pytest.skip("PRIMENET_DATA is not set: it names the folder of the real MNIST, CIFAR-10 and SVHN files")
    return Path(root)


class Numbered(ImageDataModule):
    """Image i has the pixels i // 256 and i % 256, so that it can be told again; its label is i % 3."""

    name = "numbered"
    num_classes = 3
    in_channels = 1
    image_size = (1, 2)
    class_names = ("zero", "one", "two")
    train_count = 600
    test_count = 90

    def load_arrays(self) -> tuple[Array, Array, Array, Array]:
        def images(first: int, count: int) -> Split:
            numbers = np.arange(first, first + count)
            return np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8)[:, None], numbers % 3

        return *images(0, self.train_count), *images(self.train_count, self.test_count)


def numbers_of(images: Tensor) -> list[int]:
    """Undo `Numbered`, for uint8 images or symmetrically normalized ones."""
    pixels = images if images.dtype == torch.uint8 else ((images + 1) * 127.5).round()
    high, low = pixels.long().flatten(1).unbind(1)
    numbers: list[int] = (high * 256 + low).tolist()
    return numbers


class Recorder(LightningModule):
    """Trains one weight, and writes down which images it was given in which step of which stage."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)
        self.batches: dict[str, list[tuple[int, Tensor, Tensor]]] = {"train": [], "validation": [], "test": []}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        self.batches[stage].append((self.current_epoch, images.detach().clone(), labels))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._step("validation", batch)

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._step("test", batch)

    def predict_step(self, batch: Any) -> Any:
        return batch

    def configure_optimizers(self) -> torch.optim.SGD:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def numbers(self, stage: str, epoch: int | None = None) -> list[list[int]]:
        """The images of each batch of a stage, as numbers; of one epoch if given."""
        return [numbers_of(images) for number, images, _ in self.batches[stage] if epoch in (None, number)]


@pytest.fixture
def numbered() -> type[Numbered]:
    return Numbered


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(name="numbers_of")
def _numbers_of() -> Callable[[Tensor], list[int]]:
    return numbers_of


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(**kwargs: Any) -> Trainer:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        folder: dict[str, Any] = {"default_root_dir": tmp_path, "accelerator": "cpu", "enable_checkpointing": False}
        options: dict[str, Any] = quiet | folder | {"max_epochs": 1} | kwargs
        return Trainer(**options)

    return make


@pytest.fixture
def random_images() -> Callable[..., Split]:
    """A function that gives (count, *shape) random pixels, and labels in which each of ten classes occurs."""

    def make(count: int, *shape: int, seed: int = 0) -> Split:
        generator = np.random.default_rng(seed)
        return generator.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 10

    return make


@pytest.fixture
def write_mnist(tmp_path: Path) -> Callable[..., Path]:
    """Write images and labels into the four idx files of MNIST's format, as its authors describe it."""

    def write(train: Split, test: Split, folder: str = "MNIST") -> Path:
        raw = tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        for prefix, (images, labels) in {"train": train, "t10k": test}.items():
            header = struct.pack(">IIII", 2051, *images.shape)
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            header = struct.pack(">II", 2049, len(labels))
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
        return tmp_path

    return write


@pytest.fixture
def write_cifar10(tmp_path: Path) -> Callable[[Split, Split], Path]:
    """Write (N, 3, 32, 32) images into CIFAR-10's five training batches and its test batch."""

    def write(train: Split, test: Split) -> Path:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        parts = zip(np.array_split(train[0], 5), np.array_split(train[1], 5), strict=True)
        batches = {f"data_batch_{i}": part for i, part in enumerate(parts, start=1)} | {"test_batch": test}
        for name, (images, labels) in batches.items():
            entry = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
            (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
        return tmp_path

    return write


@pytest.fixture
def write_svhn(tmp_path: Path) -> Callable[..., Path]:
    """Write (N, 32, 32, 3) images into SVHN's MATLAB files, where the digit 0 has the label 10."""

    def write(folder: str = ".", **splits: Split) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        for split, (images, labels) in splits.items():
            content = {
                "X": images.transpose(1, 2, 3, 0),
                "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8),
            }
            scipy.io.savemat(tmp_path / folder / f"{split}_32x32.mat", content)
        return tmp_path

    return write


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any look at the network an error."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    monkeypatch.setattr("primenet_lightning.datamodules.svhn.download_url", refuse)
