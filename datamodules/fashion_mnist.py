"""Fashion-MNIST."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torchvision import datasets

from primenet_lightning.datamodules.mnist import MNISTDataModule


class FashionMNISTDataModule(MNISTDataModule):
    """60,000 training and 10,000 test images of clothes, grey, 28x28, in ``root/FashionMNIST/raw``.

    torchvision verifies the archives that it downloads; no md5 of the unpacked files has been published, so files that
    are there already are taken as they are.

    The arguments are those of `ImageDataModule`.

    Example:
        >>> data = FashionMNISTDataModule(batch_size=100)
        >>> data.in_channels, data.image_size, data.class_names[9]
        (1, (28, 28), 'Ankle boot')
    """

    name = "fashion-mnist"
    class_names = tuple(datasets.FashionMNIST.classes)
    torchvision_dataset: ClassVar[Any] = datasets.FashionMNIST
    checksums: ClassVar[Mapping[str, str]] = {}
