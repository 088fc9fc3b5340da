"""Files of checkpoints: written with a check sum, and not read where one bit is another.

A checkpoint of torch is a zip file, whose check sums torch writes and does not read. In its comment, at the very end, a
checkpoint of this package has the SHA-256 of all that comes before.
"""

import hashlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from primenet_lightning.arguments import first_line
from primenet_lightning.checksums import digest_of_start, warn_of_none
from primenet_lightning.files import whole

MARK = b"primenet-sha256:"
"""What the comment begins with."""

LENGTH = len(MARK) + 64
"""Of the comment, in bytes."""

BEGINS = struct.pack("<H", LENGTH) + MARK
"""What stands between what is checked and its check sum: how long the comment is, and its mark."""

NO_COMMENT = b"\0\0"
"""How a zip file ends that has no comment: with its length."""

UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, LookupError, RuntimeError)
"""What Python makes of a damaged zip file."""

BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that torch wrote before it wrote zip files."""


class _Sink:
    """The file that torch writes into: keeps the check sum of all but the last two bytes, and an error of the disk."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.name = file.name
        self.digest = hashlib.sha256()
        self.tail = b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self.file.write(view)
        except OSError as error:
            self.error = error  # of which torch makes a RuntimeError without it
            raise
        if len(view) >= 2:
            self.digest.update(self.tail)
            self.digest.update(view[:-2])
            self.tail = bytes(view[-2:])
        else:
            self.digest.update((self.tail + bytes(view))[:-2])
            self.tail = (self.tail + bytes(view))[-2:]
        return len(view)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Write the comment."""
        if self.tail == NO_COMMENT:
            self.file.seek(-len(NO_COMMENT), 2)
            self.file.write(BEGINS + self.digest.hexdigest().encode())


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint with its check sum: the old file stays, or the new one is whole.

    Args:
        content: Of the checkpoint.
        path: The file.

    Raises:
        OSError: If it cannot be written; the sentence names the file.
    """
    with whole(path) as draft, draft.open("wb") as file:
        sink = _Sink(file)
        try:
            torch.save(content, sink)  # type: ignore[arg-type]  # what it needs of a file is there
        except RuntimeError:
            if sink.error is not None:
                raise sink.error from None
            raise
        sink.close()


def read_checkpoint(path: str | Path, map_location: Any = "cpu", weights_only: bool = True) -> Any:
    """Read what `torch.save` wrote, once it is known to be undamaged.

    Args:
        path: The file.
        map_location: As in ``torch.load``.
        weights_only: Likewise.

    Returns:
        Its content.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged, or no checkpoint.
    """
    with undamaged(path) as file:
        return load(file, path, map_location, weights_only)


def load(
    file: BinaryIO | str | Path,
    path: str | Path,
    map_location: Any = "cpu",
    weights_only: bool = True,
    mmap: bool | None = None,
) -> Any:
    """Read what `torch.save` wrote from an open file.

    Args:
        file: The file, at its beginning; its path where it is mapped into memory.
        path: What to call it.
        map_location: As in ``torch.load``.
        weights_only: Likewise.
        mmap: Likewise.

    Returns:
        Its content.

    Raises:
        ValueError: If it is no checkpoint.
    """
    try:
        return torch.load(file, map_location, weights_only=weights_only, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} cannot be read with weights_only=True ({first_line(error)}): it holds more than "
            "tensors and numbers, as the state of a callback of your own may; save such things as tensors"
        ) from error
    except Exception as error:  # each kind of damage has its own
        raise ValueError(_damaged(path, first_line(error))) from error


@contextmanager
def undamaged(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file of torch, and look at every byte of it first.

    It is checked and read through the same handle: a file that is put in its place meanwhile is not mixed with it.

    Args:
        path: The file.

    Yields:
        The file, at its beginning.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    with Path(path).open("rb") as file:
        _check(file, path)
        file.seek(0)
        yield file


def _check(file: BinaryIO, path: str | Path) -> None:
    """Compare the file with its check sum, or where it has none, its parts with those of the zip file."""
    begins = file.read(len(BEFORE_ZIP))
    if begins == BEFORE_ZIP:
        warn_of_none(path)
        return
    length = max(0, file.seek(0, 2) - len(BEGINS) - 64)
    file.seek(length)
    end = file.read()
    if end.startswith(BEGINS):
        if digest_of_start(file, length).hex().encode() != end[len(BEGINS) :]:
            raise ValueError(_damaged(path, "its check sum is another"))
        return
    try:
        with zipfile.ZipFile(file) as archive:
            comment, wrong = archive.comment, archive.testzip()
    except UNREADABLE as error:
        raise ValueError(_damaged(path, first_line(error))) from None
    if comment:  # torch writes none
        raise ValueError(_damaged(path, "its check sum is cut off"))
    if wrong is not None:
        raise ValueError(_damaged(path, f"the check sum of its part {wrong} is another"))


def _damaged(path: str | Path, reason: str) -> str:
    return (
        f"checkpoint {path} cannot be read ({reason}): it is damaged or no checkpoint; use another one, such as "
        "best.ckpt beside it"
    )
