"""Image files to predict: read one by one, so that a bad one does not stop the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

MODES = {1: "L", 3: "RGB"}


class ImageFileError(ValueError):
    """An image file cannot be used; the message names the file, what is wrong and what to do."""


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


class ImageFiles(Dataset[tuple[Tensor, str]]):
    """Image files as uint8 tensors, converted to the channels the network takes but never resized.

    Transparency is dropped. Of a moving picture the first frame counts.

    Args:
        paths: Files, or one folder: then all files right in it with a suffix that Pillow can read, sorted
            by name.
        image_size: Height and width in pixels that every image must have.
        in_channels: 1 converts to grey, 3 to RGB.

    Raises:
        ImageFileError: If ``paths`` is one path that does not exist, an empty folder, or an empty list.
        ValueError: If ``in_channels`` is neither 1 nor 3.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 6), "red").save(Path(folder, "red.png"))
        ...     image, path = ImageFiles(folder, image_size=(6, 4), in_channels=3)[0]
        >>> image.shape, image[:, 0, 0].tolist(), Path(path).name
        (torch.Size([3, 6, 4]), [255, 0, 0], 'red.png')
    """

    def __init__(self, paths: Sequence[str | Path] | str | Path, image_size: tuple[int, int], in_channels: int) -> None:
        if in_channels not in MODES:
            raise ValueError(f"in_channels={in_channels} fits no image file; give 1 (grey) or 3 (RGB).")
        self.paths = _find_files(paths)
        self.image_size = (image_size[0], image_size[1])
        self.in_channels = in_channels

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

    def _read(self, path: Path) -> Tensor:
        if not path.exists():
            raise ImageFileError(f"{path} does not exist; check the path.")
        try:
            with Image.open(path) as image:
                self._check(path, image)
                pixels = np.array(image.convert(MODES[self.in_channels]), dtype=np.uint8)
        except ImageFileError:
            raise
        except Exception as error:  # a decoder raises whatever its format makes of damaged bytes
            raise ImageFileError(f"{path} cannot be read as an image ({error}); save it again, as PNG.") from error
        return torch.from_numpy(pixels).view(*self.image_size, self.in_channels).permute(2, 0, 1).contiguous()

    def _check(self, path: Path, image: Image.Image) -> None:
        """Only the header has been read by now: a huge picture is refused before it fills the memory."""
        height, width = self.image_size
        if image.size != (width, height):
            raise ImageFileError(
                f"{path} is {image.width} pixels wide and {image.height} high, the network takes "
                f"{width} by {height}; resize it first."
            )
        if image.mode[0] in "IF":  # Pillow would cut these off at 255 instead of scaling them
            raise ImageFileError(f"{path} has pixels of more than 8 bits (mode {image.mode}); save it with 8 bits.")


def _find_files(paths: Sequence[str | Path] | str | Path) -> list[Path]:
    if not isinstance(paths, str | Path):
        if not paths:
            raise ImageFileError("paths is an empty list; give at least one image file.")
        return [Path(path) for path in paths]
    path = Path(paths)
    if not path.exists():
        raise ImageFileError(f"{path} does not exist; give a folder of images or image files.")
    if not path.is_dir():
        return [path]
    suffixes = Image.registered_extensions()
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in suffixes)
    if not files:
        raise ImageFileError(f"{path} has no image files; give a folder with some, such as .png or .jpg.")
    return files
