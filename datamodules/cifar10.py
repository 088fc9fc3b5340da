"""CIFAR-10."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torchvision import datasets

from primenet_lightning.datamodules.base import Arrays
from primenet_lightning.datamodules.downloaded import DownloadedDataModule


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
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def files(self) -> Mapping[Path, str | None]:
        """The six batches, with the md5 that torchvision knows."""
        folder = self.root / datasets.CIFAR10.base_folder
        return {folder / name: md5 for name, md5 in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list}

    def fetch(self) -> None:
        """Let torchvision download, verify and unpack the archive."""
        datasets.CIFAR10(self.root, download=True)

    def parse(self) -> Arrays:
        """Let torchvision parse both splits."""
        train = _Parser(self.root, train=True)
        test = _Parser(self.root, train=False)
        return train.data, np.array(train.targets), test.data, np.array(test.targets)


class _Parser(datasets.CIFAR10):  # type: ignore[misc]
    """torchvision's parser without its own verification: the data module has verified, or was told not to."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        """The class names stand in the data module."""
