"""CIFAR-10."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets

from primenet_lightning.datamodules.base import Arrays
from primenet_lightning.datamodules.downloaded import DownloadedDataModule


class Unverified:
    """Switches off torchvision's own verification: the data module has verified, or was told not to."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        """The class names stand in the data module."""


class _Parser(Unverified, datasets.CIFAR10):  # type: ignore[misc]
    pass


class CIFAR10DataModule(DownloadedDataModule):
    """50,000 training and 10,000 test colour images of ten objects, 32x32, in ``root/cifar-10-batches-py``.

    The arguments are those of `ImageDataModule`.

    Example:
        >>> data = CIFAR10DataModule(batch_size=100)
        >>> data.in_channels, data.image_size, data.num_classes
        (3, (32, 32), 10)
    """

    name = "cifar10"
    num_classes = 10
    in_channels = 3
    image_size = (32, 32)
    class_names: tuple[str, ...] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    torchvision_dataset: ClassVar[Any] = datasets.CIFAR10
    parser: ClassVar[Any] = _Parser

    def files(self) -> Mapping[Path, str | None]:
        """The batches, with the md5 that torchvision knows."""
        source = self.torchvision_dataset
        folder = self.root / source.base_folder
        return {folder / name: md5 for name, md5 in source.train_list + source.test_list}

    def fetch(self) -> None:
        """Let torchvision download, verify and unpack the archive."""
        self.torchvision_dataset(self.root, download=True)

    def parse(self) -> Arrays:
        """Let torchvision parse both splits."""
        train = self.parser(self.root, train=True)
        test = self.parser(self.root, train=False)
        return train.data, np.array(train.targets), test.data, np.array(test.targets)
