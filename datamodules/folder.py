"""Pictures of any size, in one folder a class."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchvision.datasets import ImageFolder

from primenet_lightning.arguments import at_least
from primenet_lightning.datamodules.base import Arrays, ImageDataModule
from primenet_lightning.datamodules.image_files import is_picture
from primenet_lightning.datamodules.options import check_fraction
from primenet_lightning.datamodules.pictures import Fit, check_channels, check_fit, read_picture
from primenet_lightning.datamodules.pixel_store import Pixels, map_from_file, read_into_memory, store_name
from primenet_lightning.datamodules.preprocessing import as_size
from primenet_lightning.datamodules.splits import stratified_split

TEST_SEED = 0  # fixed: another seed for the data must never move images into the test split

NAMES_OF_SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
"""What folders of splits are called, where none are given."""


class _Labelled(NamedTuple):
    """Files with one label each."""

    paths: list[Path]
    labels: Tensor


class FolderDataModule(ImageDataModule):
    """Pictures in one folder a class, read by Pillow, resized, and held as uint8.

    Looked for are ``root/train/CLASS``, ``root/val/CLASS`` and ``root/test/CLASS``. Without ``train`` the classes are
    the folders in ``root`` itself. Where there is no folder of validation or test pictures, these are held out of the
    others, every class in proportion: which for the test is always the same, which for the validation ``seed`` says.

    Pictures are turned as their EXIF tag says, what is transparent becomes white, and `ImageFiles` and ``primenet
    predict`` read pictures in the same way. Files that are hidden, or have no suffix of a picture, are left out.

    Args:
        root: As in `ImageDataModule`: the folder of the folders.
        image_size: Height and width that every picture is brought to, or one number for a square.
        in_channels: 3 for RGB, 1 for grey.
        fit: ``"stretch"`` changes a picture's proportions, ``"crop"`` cuts off what is too long, ``"pad"`` adds black
            bars.
        train_folder: Of the training pictures, in ``root`` or anywhere; None looks for it.
        validation_folder: Of the validation pictures, likewise; with one, ``validation_fraction`` has no effect.
        test_folder: Of the test pictures, likewise; with one, ``test_fraction`` has no effect.
        test_fraction: Share of the pictures held out for the test, between 0 and 1.
        memory_limit: GiB of pixels that are held in memory. More are written into a file, once, and mapped from it.
        cache_folder: Where that file goes; None takes ``root/.primenet-cache``.
        **kwargs: The other arguments of `ImageDataModule`; ``download`` and ``verify`` have no effect.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If an argument is out of its range, or no class has a folder.

    Example:
        >>> from PIL import Image
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     for number in range(20):
        ...         path = Path(root, ("cat", "dog")[number % 2], f"{number}.png")
        ...         path.parent.mkdir(exist_ok=True)
        ...         Image.new("RGB", (20 + number, 30)).save(path)
        ...     data = FolderDataModule(root=root, image_size=16, validation_fraction=0.25)
        ...     data.setup("fit")
        >>> data.class_names, len(data.train_dataset), len(data.validation_dataset), len(data.test_dataset)
        (('cat', 'dog'), 12, 4, 4)
    """

    _folders: ClassVar[list[str]] = ["train_folder", "validation_folder", "test_folder", "cache_folder"]
    _not_saved: ClassVar[list[str]] = [*ImageDataModule._not_saved, *_folders]

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        image_size: int | tuple[int, int] = 64,
        in_channels: int = 3,
        fit: Fit = "stretch",
        train_folder: str | Path | None = None,
        validation_folder: str | Path | None = None,
        test_folder: str | Path | None = None,
        test_fraction: float = 0.2,
        memory_limit: float = 4.0,
        cache_folder: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        check_channels(in_channels)
        check_fraction("test_fraction", test_fraction)
        at_least(0, "GiB", memory_limit=memory_limit)
        check_fit(fit)
        self.image_size = as_size("image_size", image_size)
        self.in_channels = in_channels
        super().__init__(root=root, **kwargs)
        self.fit = fit
        self.test_fraction = test_fraction
        self.memory_limit = memory_limit
        self.cache_folder = self.root / ".primenet-cache" if cache_folder is None else Path(cache_folder)
        self.train_folder = self._folder("train", train_folder) or self.root
        self.validation_folder = self._folder("validation", validation_folder)
        self.test_folder = self._folder("test", test_folder)
        self.name = self.root.resolve().name
        self.class_names = _class_folders(self.train_folder)
        self.num_classes = len(self.class_names)
        self._is_mapped = False

    def _folder(self, split: str, given: str | Path | None) -> Path | None:
        """The folder of a split; None if none is given, and none has its name."""
        if given is not None:
            return self.root / given
        if split != "train" and self.train_folder == self.root:
            return None  # the folders in root are classes
        for name in NAMES_OF_SPLITS[split]:
            folder = self.root / name
            if folder.is_dir() and any(child.is_dir() for child in folder.iterdir()):
                return folder
        return None

    def load_arrays(self) -> Arrays:
        """Read and resize all pictures, or map what an earlier run has read.

        Returns:
            Training images, those for validation among them, their labels, test images and their labels: uint8
            (images, channels, height, width) and (images,).
        """
        train, test = self._listed()
        pixels = self._pixels([*train.paths, *test.paths])
        count = len(train.paths)
        return pixels[:count], train.labels, pixels[count:], test.labels

    def _listed(self) -> tuple[_Labelled, _Labelled]:
        """Training pictures, at their end those of the validation folder, and test pictures."""
        train = self._in_folder(self.train_folder)
        if not train.paths:
            raise ValueError(
                f"{self.train_folder} has no pictures in its folders; give root (or PRIMENET_DATA), or train_folder, "
                "with one folder of pictures a class"
            )
        if self.test_folder is None:
            count = round(self.test_fraction * len(train.paths))
            rest, held_out = stratified_split(train.labels, count, TEST_SEED)
            train, test = _chosen(train, rest), _chosen(train, held_out)
        else:
            test = self._in_folder(self.test_folder)
        if self.validation_folder is not None:
            validation = self._in_folder(self.validation_folder)
            train = _Labelled(train.paths + validation.paths, torch.cat([train.labels, validation.labels]))
            self.validation_count = len(validation.paths)
        return train, test

    def _in_folder(self, folder: Path) -> _Labelled:
        for name in _class_folders(folder):
            if name not in self.class_names:
                raise ValueError(
                    f"{folder} has a class {name!r} that {self.train_folder} does not have; rename or remove it, or "
                    "give the class training pictures."
                )
        samples = _Pictures(folder, self.class_names).samples
        labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        return _Labelled([Path(path) for path, _ in samples], labels)

    def _pixels(self, paths: Sequence[Path]) -> Pixels:
        """The pixels of all pictures, in memory or mapped into it."""
        shape = (self.in_channels, *self.picture_size)
        read = partial(read_picture, image_size=self.picture_size, in_channels=self.in_channels, fit=self.fit)
        size = self._gigabytes(len(paths))
        self._is_mapped = size > self.memory_limit
        if not self._is_mapped:
            return read_into_memory(paths, shape, read)
        file = self.cache_folder / store_name(paths, self.root, [*shape, self.fit])
        if not file.is_file():
            rank_zero_info(f"reading {len(paths):,} pictures, {size:.2f} GiB, once, into {file}")
        return map_from_file(file, paths, shape, read)

    def _gigabytes(self, pictures: int) -> float:
        return pictures * self.in_channels * self.picture_size[0] * self.picture_size[1] / 2**30

    def prepare_data(self) -> None:
        """Write the file of pixels, on one process, where they are more than ``memory_limit``."""
        if self._data is not None:
            return
        train, test = self._listed()
        if self._gigabytes(len(train.paths) + len(test.paths)) > self.memory_limit:
            self.setup()

    def __getstate__(self) -> dict[str, Any]:
        """All but the Trainer, and but pixels that are mapped from a file, which is mapped again."""
        state = super().__getstate__()
        if self._is_mapped:
            state["_data"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state, and map the pixels again where they were mapped."""
        self.__dict__.update(state)
        if self._is_mapped:
            self.setup()


class _Pictures(ImageFolder):  # type: ignore[misc]
    """torchvision's list of pictures, with the labels that the training pictures have, and without hidden folders."""

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self._class_names = class_names
        super().__init__(str(folder), is_valid_file=partial(_is_visible_picture, folder), allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        labels = {name: label for label, name in enumerate(self._class_names)}
        present = _class_folders(Path(directory))
        return list(present), {name: labels[name] for name in present}


def _is_visible_picture(folder: Path, path: str) -> bool:
    hidden = any(part.startswith(".") for part in Path(path).relative_to(folder).parts)
    return is_picture(Path(path)) and not hidden


def _class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders of classes, sorted."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; give root (or PRIMENET_DATA), or train_folder, validation_folder and test_folder, "
            "with one folder of pictures a class."
        )
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} has no folders; put the pictures of each class into a folder of its name.")
    return tuple(names)


def _chosen(files: _Labelled, positions: Tensor) -> _Labelled:
    return _Labelled([files.paths[position] for position in positions.tolist()], files.labels[positions])
