"""MNIST, and any other data set in its files' format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets

from primenet_lightning.datamodules.base import Arrays
from primenet_lightning.datamodules.downloaded import DownloadedDataModule


class MNISTDataModule(DownloadedDataModule):
    """60,000 training and 10,000 test images of handwritten digits, grey, 28x28, in ``root/MNIST/raw``.

    torchvision verifies only the archives it downloads, so the md5 of the unpacked files is verified here.

    A data set in the same format is a subclass that names torchvision's class::

        class KMNISTDataModule(MNISTDataModule):
            name = "kmnist"
            class_names = tuple(torchvision.datasets.KMNIST.classes)
            torchvision_dataset = torchvision.datasets.KMNIST
            checksums = {}  # the md5 by file name, where known

    The arguments are those of `ImageDataModule`.

    Example:
        >>> data = MNISTDataModule(batch_size=100)
        >>> data.in_channels, data.image_size, data.num_classes
        (1, (28, 28), 10)
    """

    name = "mnist"
    num_classes = 10
    in_channels = 1
    image_size = (28, 28)
    class_names: tuple[str, ...] = tuple("0123456789")

    torchvision_dataset: ClassVar[Any] = datasets.MNIST
    file_names: ClassVar[tuple[str, ...]] = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def files(self) -> Mapping[Path, str | None]:
        """The four unpacked files."""
        folder = self.root / self.torchvision_dataset.__name__ / "raw"
        return {folder / file_name: self.checksums.get(file_name) for file_name in self.file_names}

    def fetch(self) -> None:
        """Let torchvision download and unpack the archives."""
        self.torchvision_dataset(self.root, download=True)

    def parse(self) -> Arrays:
        """Let torchvision parse both splits."""
        train = self.torchvision_dataset(self.root, train=True)
        test = self.torchvision_dataset(self.root, train=False)
        return train.data, train.targets, test.data, test.targets
