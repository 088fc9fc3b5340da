"""Any data set of images and labels by position, such as torchvision's, copied into memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from primenet_lightning.datamodules.augmenting import transform_parts
from primenet_lightning.datamodules.base import Arrays, ImageDataModule
from primenet_lightning.datamodules.classes import check_class_names
from primenet_lightning.datamodules.pictures import (
    Fit,
    as_pixels,
    check_channels,
    check_fit,
    fitted,
    picture_of,
)
from primenet_lightning.datamodules.preprocessing import as_size

RANDOM = (
    "ColorJitter",
    "AutoAugment",
    "RandAugment",
    "TrivialAugmentWide",
    "AugMix",
    "ElasticTransform",
    "GaussianNoise",
)
"""Transforms of torchvision that draw random numbers, beside those whose names begin with Random."""

GREY = ("1", "L", "LA", "La")
"""Pillow's modes without colour."""


class _Read(NamedTuple):
    images: Tensor
    labels: Tensor


class DatasetsDataModule(ImageDataModule):
    """Images and labels of data sets that give pairs of an image and a class index by position, copied into memory.

    `ImageDataModule.from_datasets` makes one. An image is a PIL picture, or a tensor (channels, height, width), uint8
    or float from 0 to 1. PIL pictures are read as `FolderDataModule` reads them. Names of classes are those of
    ``classes`` of the training data set, as torchvision's have it.

    Args:
        train: The training images, out of which the validation split is held out.
        test: The test images.
        validation: The validation images; with them, ``validation_fraction`` has no effect. None holds some out of the
            training images.
        image_size: Height and width that every image is brought to, or one number for a square; None takes the first
            image's, which all must have.
        in_channels: 3 for RGB, 1 for grey; None takes the first image's.
        class_names: In the order of the labels; None takes those of ``train``, or else the numbers.
        fit: How images are brought to ``image_size``: ``"stretch"``, ``"crop"`` or ``"pad"``.
        name: What the data set is called; None takes the name of the class of ``train``.
        **kwargs: The other arguments of `ImageDataModule`; ``root``, ``download`` and ``verify`` have no effect.

    Raises:
        TypeError: If an item is no such pair.
        ValueError: If images differ in size, are no pixels, or would be changed at random; if labels are no class
            indices, or names do not fit them.

    Example:
        >>> pictures = [(Image.new("L", (8, 8), 20 * number), number % 2) for number in range(10)]
        >>> data = DatasetsDataModule(pictures, pictures, class_names=("even", "odd"), validation_fraction=0.2)
        >>> data.in_channels, data.image_size, data.num_classes
        (1, (8, 8), 2)
    """

    _not_saved: ClassVar[list[str]] = [*ImageDataModule._not_saved, "train", "test", "validation"]

    def __init__(
        self,
        train: Dataset[Any],
        test: Dataset[Any],
        *,
        validation: Dataset[Any] | None = None,
        image_size: int | tuple[int, int] | None = None,
        in_channels: int | None = None,
        class_names: Sequence[str] | None = None,
        fit: Fit = "stretch",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_fit(fit)
        for split, dataset in (("train", train), ("validation", validation), ("test", test)):
            _refuse_random(dataset, split)
        self.name = name or _name(train)
        self._read_images(train, validation, test, image_size, in_channels, fit)
        self._name_classes(train, class_names)
        super().__init__(**kwargs)
        if image_size is not None:
            self.fit = fit

    def _read_images(
        self,
        train: Dataset[Any],
        validation: Dataset[Any] | None,
        test: Dataset[Any],
        image_size: int | tuple[int, int] | None,
        in_channels: int | None,
        fit: Fit,
    ) -> None:
        """Copy all images and labels."""
        first = next(_images(train, "train")).image
        self.in_channels = in_channels or _channels_of(first)
        if isinstance(first, Image.Image) or in_channels is not None:
            check_channels(self.in_channels)
        reading = _Reading(self.in_channels, _size_of(first), None)
        if image_size is not None:
            reading = _Reading(self.in_channels, as_size("image_size", image_size), fit)
        self.image_size = reading.size
        self._train = _read(train, "train", reading)
        self._test = _read(test, "test", reading)
        if validation is not None:
            held_out = _read(validation, "validation", reading)
            self.validation_count = len(held_out.labels)
            images = torch.cat([self._train.images, held_out.images])
            self._train = _Read(images, torch.cat([self._train.labels, held_out.labels]))

    def _name_classes(self, train: Dataset[Any], class_names: Sequence[str] | None) -> None:
        """Take the names that were given, or those of the data set."""
        most = max(int(self._train.labels.max()), int(self._test.labels.max()))
        self.class_names = _class_names(train, most + 1) if class_names is None else tuple(class_names)
        self.num_classes = len(self.class_names)
        check_class_names(self.class_names, self.num_classes, self.name)
        if most >= self.num_classes:
            raise ValueError(
                f"class_names has {self.num_classes} names for {self.name}, which has a label {most}; give one name "
                "for each class, of which the first has label 0"
            )

    def load_arrays(self) -> Arrays:
        """Give what has been read.

        Returns:
            Training images, those for validation at their end, training labels, test images, test labels: uint8
            (images, channels, height, width) and int64 (images,).
        """
        return *self._train, *self._test


class _Reading(NamedTuple):
    """How images are read: None refuses those of another size."""

    channels: int
    size: tuple[int, int]
    fit: Fit | None


class _Item(NamedTuple):
    image: Any
    label: Any
    name: str


def _refuse_dataset(dataset: Any, split: str) -> None:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, Mapping):
        raise TypeError(
            f"{split}={type(dataset).__name__} has no length or no items by position; give a map-style data set"
        )
    if not len(dataset):
        raise ValueError(f"{split}={type(dataset).__name__} has no images; give at least one")


def _images(dataset: Any, split: str) -> Iterator[_Item]:
    """The items of a data set, in order."""
    _refuse_dataset(dataset, split)
    for position in range(len(dataset)):
        item = dataset[position]
        if not isinstance(item, tuple | list) or len(item) != 2:
            kind = type(item).__name__
            if isinstance(item, tuple | list):
                kind += f" of {len(item)}"
            raise TypeError(f"item {position} of {split} is a {kind}; give pairs (image, class index)")
        yield _Item(item[0], item[1], f"image {position} of {split}")


def _read(dataset: Any, split: str, reading: _Reading) -> _Read:
    _refuse_dataset(dataset, split)
    images = torch.empty((len(dataset), reading.channels, *reading.size), dtype=torch.uint8)
    labels = torch.empty(len(dataset), dtype=torch.int64)
    for position, item in enumerate(_images(dataset, split)):
        images[position] = _pixels(item, reading)
        labels[position] = _label(item)
    return _Read(images, labels)


def _pixels(item: _Item, reading: _Reading) -> Tensor:
    """uint8 (channels, height, width) of a picture or a tensor."""
    channels, size, fit = reading
    picture = item.image
    if not isinstance(picture, Image.Image):
        pixels = _as_uint8(_as_tensor(picture, item.name), item.name)
        if pixels.shape == (channels, *size):
            return pixels
        picture = _as_picture(pixels, item.name)
    pixels = as_pixels(fitted(picture_of(picture, channels, item.name), size, fit))
    if tuple(pixels.shape[1:]) != size:
        raise ValueError(
            f"{item.name} is {pixels.shape[2]} pixels wide and {pixels.shape[1]} high, the first one {size[1]} by "
            f"{size[0]}; give image_size=({size[0]}, {size[1]}), and all are resized to it"
        )
    return pixels


def _as_tensor(image: Any, name: str) -> Tensor:
    """(channels, height, width) of a tensor or of an array, grey if it has two dimensions."""
    if isinstance(image, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        if tensor.ndim == 3:
            tensor = tensor.permute(2, 0, 1)  # arrays have channels last
    elif isinstance(image, Tensor):
        tensor = image
    else:
        raise TypeError(f"{name} is a {type(image).__name__}; give PIL pictures, tensors or arrays")
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give (channels, height, width)")
    return tensor


def _as_uint8(tensor: Tensor, name: str) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise ValueError(f"{name} is {tensor.dtype}; give uint8 from 0 to 255, or floats from 0 to 1")
    low, high = float(tensor.min()), float(tensor.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{name} has floats from {low:.3g} to {high:.3g}; give uint8 from 0 to 255, or floats from 0 to 1, without "
            "a transform that normalizes: the data module does that"
        )
    return (tensor * 255).round().to(torch.uint8)


def _as_picture(pixels: Tensor, name: str) -> Image.Image:
    if pixels.shape[0] not in (1, 3):
        raise ValueError(
            f"{name} has shape {tuple(pixels.shape)}, but images with other than 1 or 3 channels cannot be resized or "
            "converted; give all of one shape"
        )
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _label(item: _Item) -> int:
    label = item.label
    if isinstance(label, Tensor | np.ndarray) and tuple(label.shape) in ((), (1,)):
        label = label.item()
    if isinstance(label, bool | np.bool_) or not isinstance(label, int | np.integer):
        raise TypeError(
            f"{item.name} has the label {label!r}; give one whole number, the index of its class, by target_transform "
            "for a data set of torchvision"
        )
    if label < 0:
        raise ValueError(f"{item.name} has the label {label}; class indices count from 0")
    return int(label)


def _size_of(image: Any) -> tuple[int, int]:
    """Height and width of the first image."""
    if isinstance(image, Image.Image):
        width, height = picture_of(image, 3, "image 0 of train").size
        return height, width
    tensor = _as_tensor(image, "image 0 of train")
    return tensor.shape[1], tensor.shape[2]


def _channels_of(image: Any) -> int:
    if isinstance(image, Image.Image):
        return 1 if image.mode in GREY else 3
    return _as_tensor(image, "image 0 of train").shape[0]


def _name(dataset: Any) -> str:
    """What a data set is called: the name of its class, or of the class of what it is a part of."""
    while hasattr(dataset, "dataset"):  # a Subset
        dataset = dataset.dataset
    return type(dataset).__name__.lower()


def _class_names(dataset: Any, count: int) -> tuple[str, ...]:
    """What the data set calls its classes; numbers where it does not."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):  # a Subset
        dataset = dataset.dataset
    return tuple(map(str, getattr(dataset, "classes", range(count))))


def _refuse_random(dataset: Any, split: str) -> None:
    """Refuse an augmentation inside a data set: it would be drawn once, and then be the same in every epoch."""
    while dataset is not None:
        for attribute in ("transform", "transforms"):
            for part in transform_parts(getattr(dataset, attribute, None)):
                name = type(part).__name__
                if name.startswith("Random") or name in RANDOM:
                    raise ValueError(
                        f"{split} has a transform {name}, which would be drawn once and then stay; take it out of the "
                        "data set and give it as augmentation"
                    )
        dataset = getattr(dataset, "dataset", None)
