"""Image files to predict: read one by one, so that a bad one does not stop the others."""

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, StackDataset

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.datamodules.pictures import (
    Fit,
    ImageFileError,
    check_channels,
    check_fit,
    picture_suffixes,
    read_picture,
)


class LoadedImages(NamedTuple):
    """What `ImageFiles.load` could read and what it could not.

    Attributes:
        images: Of the readable files, uint8 (files, channels, height, width).
        paths: The readable files, in the order of ``images``.
        errors: Path and message of each file that could not be used.
    """

    images: Tensor
    paths: tuple[str, ...]
    errors: tuple[tuple[str, str], ...]


class ImageFiles(Dataset[tuple[Tensor, str]], metaclass=CheckedArguments):
    """Image files as uint8 tensors, converted to the channels the network takes.

    A picture is turned as its EXIF tag says, and what is transparent becomes white. One of more than 8 bits or of
    several frames is refused.

    Args:
        paths: Files, or one folder: then all files right in it with a suffix that Pillow can read, sorted
            by name.
        image_size: Height and width in pixels that every image must have.
        in_channels: 1 converts to grey, 3 to RGB.
        fit: ``"stretch"``, ``"crop"`` or ``"pad"`` brings pictures of another size to ``image_size``; None refuses
            them.

    Raises:
        ImageFileError: If ``paths`` is one path that does not exist, an empty folder, or an empty list.
        ValueError: If ``in_channels`` is neither 1 nor 3, or ``fit`` is unknown.

    Example:
        >>> from PIL import Image
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 6), "red").save(Path(folder, "red.png"))
        ...     image, path = ImageFiles(folder, image_size=(6, 4), in_channels=3)[0]
        >>> image.shape, image[:, 0, 0].tolist(), Path(path).name
        (torch.Size([3, 6, 4]), [255, 0, 0], 'red.png')
    """

    def __init__(
        self,
        paths: Sequence[str | Path] | str | Path,
        image_size: tuple[int, int],
        in_channels: int,
        fit: Fit | None = None,
    ) -> None:
        check_channels(in_channels)
        check_fit(fit)
        self.paths = _find_files(paths)
        self.image_size = (image_size[0], image_size[1])
        self.in_channels = in_channels
        self.fit: Fit | None = fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[Tensor, str]:
        """Read one file.

        Args:
            position: Which file.

        Returns:
            uint8 (channels, height, width), and its path.

        Raises:
            ImageFileError: If it is missing, damaged, not an image, or of another size.
        """
        path = self.paths[position]
        return self._read(path), str(path)

    def load(self) -> LoadedImages:
        """Read all files; those that cannot be used are listed instead of raised."""
        images, paths, errors = [], [], []
        for path in self.paths:
            try:
                images.append(self._read(path))
                paths.append(str(path))
            except ImageFileError as error:
                errors.append((str(path), str(error)))
        if images:
            batch = torch.stack(images)
        else:
            batch = torch.empty((0, self.in_channels, *self.image_size), dtype=torch.uint8)
        return LoadedImages(batch, tuple(paths), tuple(errors))

    def loaded_with_warnings(self) -> Dataset[tuple[Tensor, str]]:
        """Read all files, and warn of each that cannot be used.

        Returns:
            Pairs of an image, uint8 (channels, height, width), and its path.

        Raises:
            ImageFileError: If none of them can be used.
        """
        images, paths, errors = self.load()
        if not paths:
            raise ImageFileError(f"None of the {len(errors)} files can be used: {errors[0][1]}")
        for _, message in errors:
            warnings.warn(message, stacklevel=3)
        return StackDataset(images, paths)  # type: ignore[arg-type]  # it stacks any two that can be indexed

    def _read(self, path: Path) -> Tensor:
        return read_picture(path, self.image_size, self.in_channels, self.fit)


def _find_files(paths: Sequence[str | Path] | str | Path) -> list[Path]:
    if isinstance(paths, str | Path):
        return list_pictures(paths)
    if not paths:
        raise ImageFileError("paths is an empty list; give at least one image file.")
    return [Path(path) for path in paths]


def list_pictures(path: str | Path) -> list[Path]:
    """List the files that a path stands for.

    Args:
        path: A file; a folder, which stands for the pictures right in it, sorted by name; or a pattern with ``*``,
            ``?`` or ``[...]``, in which ``**`` stands for any folders.

    Returns:
        At least one file.

    Raises:
        ImageFileError: If there is none.

    Example:
        >>> list_pictures("no/such/*.png")
        Traceback (most recent call last):
        ...
        primenet_lightning.datamodules.pictures.ImageFileError: no/such/*.png fits no file; check the pattern.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if is_picture(file))
        if not files:
            raise ImageFileError(f"{path} has no image files; give a folder with some, such as .png or .jpg.")
        return files
    if place.exists():
        return [place]
    if not glob.has_magic(str(path)):
        raise ImageFileError(f"{path} does not exist; give a folder of images or image files.")
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    files = [match for match in matches if match.is_file()]
    if not files:
        raise ImageFileError(f"{path} fits no file; check the pattern.")
    return files


def is_picture(path: Path) -> bool:
    """Tell by its name whether a file is a picture.

    Args:
        path: Any.

    Returns:
        Whether it is a file with a suffix that Pillow can read; those that a system hides (``._photo.jpg``) are none.
    """
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in picture_suffixes()
