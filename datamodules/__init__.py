"""Data modules: images in memory as uint8, whole batches at a time."""

from primenet_lightning.datamodules.augmentation import Augment
from primenet_lightning.datamodules.base import ImageDataModule
from primenet_lightning.datamodules.cifar10 import CIFAR10DataModule
from primenet_lightning.datamodules.cifar100 import CIFAR100DataModule
from primenet_lightning.datamodules.datasets import DatasetsDataModule
from primenet_lightning.datamodules.digits import DigitsDataModule
from primenet_lightning.datamodules.downloaded import DownloadedDataModule
from primenet_lightning.datamodules.fashion_mnist import FashionMNISTDataModule
from primenet_lightning.datamodules.folder import FolderDataModule
from primenet_lightning.datamodules.image_files import ImageFiles, LoadedImages
from primenet_lightning.datamodules.in_memory import ImageTensors
from primenet_lightning.datamodules.loader import BatchLoader
from primenet_lightning.datamodules.mnist import MNISTDataModule
from primenet_lightning.datamodules.normalization import Normalize
from primenet_lightning.datamodules.pictures import ImageFileError
from primenet_lightning.datamodules.preprocessing import Preprocess
from primenet_lightning.datamodules.samplers import EpochBatchSampler, OrderedBatchSampler
from primenet_lightning.datamodules.svhn import SVHNDataModule

__all__ = [  # noqa: RUF022 -- in the order of `sorted`, which is not that of numbers
    "Augment",
    "BatchLoader",
    "CIFAR100DataModule",
    "CIFAR10DataModule",
    "DatasetsDataModule",
    "DigitsDataModule",
    "DownloadedDataModule",
    "EpochBatchSampler",
    "FashionMNISTDataModule",
    "FolderDataModule",
    "ImageDataModule",
    "ImageFileError",
    "ImageFiles",
    "ImageTensors",
    "LoadedImages",
    "MNISTDataModule",
    "Normalize",
    "OrderedBatchSampler",
    "Preprocess",
    "SVHNDataModule",
]
