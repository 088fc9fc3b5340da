"""Pixels of many pictures: read once, by several threads, into memory or into a file that is mapped into it."""

import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from primenet_lightning.checksums import digest_of_start
from primenet_lightning.datamodules.pictures import ImageFileError
from primenet_lightning.files import whole

Pixels = npt.NDArray[np.uint8]
"""(images, channels, height, width)."""

Reader = Callable[[Path], Tensor]
"""From a file to uint8 (channels, height, width); ImageFileError if it cannot be used."""

THREADS = 8
"""At most: Pillow decodes and resizes outside of Python's lock."""

NAMED = 3
"""Broken files that an error names."""


def read_into_memory(paths: Sequence[Path], shape: tuple[int, int, int], read: Reader) -> Pixels:
    """Read pictures into an array.

    Args:
        paths: The files, in order.
        shape: Channels, height and width of each.
        read: Reads one, uint8 (channels, height, width).

    Returns:
        uint8 (images, channels, height, width).

    Raises:
        ImageFileError: If files cannot be used; it names the first, and says how many more there are.
    """
    pixels: Pixels = np.empty((len(paths), *shape), np.uint8)
    for position, picture in enumerate(_read_all(paths, read)):
        pixels[position] = picture
    return pixels


def map_from_file(file: Path, paths: Sequence[Path], shape: tuple[int, int, int], read: Reader) -> Pixels:
    """Read pictures into a file, unless it is there, and map it into memory.

    Args:
        file: In numpy's format; whole or not there.
        paths: The pictures, in order.
        shape: Channels, height and width of each.
        read: Reads one, uint8 (channels, height, width).

    Returns:
        uint8 (images, channels, height, width); of the file, only what is used comes into memory. All of it is read
        once, and compared with its check sum.

    Raises:
        ImageFileError: If files cannot be used; it names the first, and says how many more there are.
        OSError: If the file cannot be written.
    """
    if not file.is_file():
        _write(file, paths, shape, read)
    elif not _is_as_written(file):
        warnings.warn(f"{file} is damaged, or of an earlier version: the pictures are read anew", stacklevel=2)
        _write(file, paths, shape, read)
    # copy on write: torch wants memory that may be written, and nobody writes
    pixels: Pixels = np.load(file, mmap_mode="c")
    return pixels


def store_name(paths: Sequence[Path], root: Path, settings: Any) -> str:
    """Name a file of pixels by all that its content depends on.

    Args:
        paths: The pictures, in order.
        root: Folder that they are in: another place of the same folder keeps the name.
        settings: How they are read, as JSON can write it.

    Returns:
        The name of a file, which changes with any picture's name, size or time of writing.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for path in paths:
        status = path.stat()
        relative = os.path.relpath(path, root)
        digest.update(f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return f"pixels-{digest.hexdigest()[:16]}.npy"


def _write(file: Path, paths: Sequence[Path], shape: tuple[int, int, int], read: Reader) -> None:
    size = len(paths) * int(np.prod(shape))
    remedy = "give cache_folder on a disk with room, or a smaller image_size"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(file.parent).free
        if free < size:
            raise OSError(f"{size / 2**30:.1f} GiB are needed and {free / 2**30:.1f} are free")
        with whole(file) as draft, draft.open("wb") as stream:
            header = io.BytesIO()
            described = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *shape)}
            np.lib.format.write_array_header_2_0(header, described)
            stream.write(header.getvalue())
            digest = hashlib.sha256(header.getvalue())
            for picture in _read_all(paths, read):
                stream.write(picture.tobytes())
                digest.update(picture.tobytes())
            stream.write(digest.digest())  # which numpy does not look at
    except OSError as error:
        raise OSError(f"the pixels of {len(paths):,} pictures cannot be kept in {file} ({error}); {remedy}.") from error


def _is_as_written(file: Path) -> bool:
    """Compare a file's content with the check sum at its end: once, since all of it is used in any epoch."""
    before = file.stat().st_size - hashlib.sha256().digest_size
    with file.open("rb") as stream:
        digest = digest_of_start(stream, before)
        return stream.read() == digest


def _read_all(paths: Sequence[Path], read: Reader) -> Iterator[Pixels]:
    """The pictures in order; when all have been tried, an error for those that cannot be used."""
    errors: list[str] = []

    def pixels_or_error(path: Path) -> Pixels | str:
        try:
            return read(path).numpy()
        except ImageFileError as error:
            return str(error)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), 1000):  # so that few wait in memory for the one before them
            for result in pool.map(pixels_or_error, paths[start : start + 1000]):
                if isinstance(result, str):
                    errors.append(result)
                elif not errors:
                    yield result
    if errors:
        raise ImageFileError(_in_one(errors))


def _in_one(errors: Sequence[str]) -> str:
    first = " ".join(errors[:NAMED])
    if len(errors) > NAMED:
        first += f" ({len(errors) - NAMED} more files cannot be used.)"
    return f"{first} Repair or delete {'it' if len(errors) == 1 else 'them'}."
