"""Files that are whole or not there, and work that goes on when one of them cannot be written."""

import errno
import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from primenet_lightning.arguments import first_line


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Write a file so that readers see the old one, or the new one whole, whatever happens in between.

    It is written beside its place under another name, brought to the disk, and renamed. Where writing fails, the old
    file is untouched and the new one is taken away.

    Args:
        path: Where the file is to be; its folder is made where it is missing.

    Yields:
        Where to write instead.

    Raises:
        OSError: If it cannot be written; the sentence has the file and the remedy.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(Path(folder, "numbers.txt")) as draft:
        ...         _ = draft.write_text("1 2 3")
        ...     [file.name for file in Path(folder).iterdir()]
        ['numbers.txt']
    """
    place = Path(path)
    draft = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        _bring_to_disk(draft)
        draft.replace(place)
    except OSError as error:
        if error.filename not in (None, str(draft), str(place.parent)):
            raise  # it is another file's
        raise unwritable(place, error) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota on that disk",
    errno.EFBIG: "raise the limit on the size of files, or write to another disk",
    errno.EIO: "see whether that disk is well, or write to another one",
    errno.ENOENT: "its folder is gone: put it back, or write elsewhere",
}
"""What to do, by the number of the error."""


def unwritable(path: Path, error: OSError) -> OSError:
    """Say which file cannot be written, why, and what to do.

    Args:
        path: The file.
        error: The system's.

    Returns:
        An error of the same number, whose message is a sentence.

    Example:
        >>> str(unwritable(Path("it"), OSError(errno.ENOSPC, "No space left on device")))
        'it cannot be written (No space left on device); make room on that disk'
    """
    remedy = REMEDIES.get(error.errno or 0, "give a place in which you may write")
    told = OSError(f"{path} cannot be written ({error.strerror or first_line(error)}); {remedy}")
    told.errno = error.errno
    return told


def _bring_to_disk(path: Path) -> None:
    """Wait until a file's content is on the disk: after a power cut a renamed file may otherwise be empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file by `whole`.

    Args:
        path: The file.
        content: Of the file; a string is written as UTF-8, its line ends as they are.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "numbers.txt"), "1 2 3").read_text()
        '1 2 3'
    """
    data = content.encode() if isinstance(content, str) else content
    with whole(path) as draft:
        draft.write_bytes(data)
    return Path(path)


@contextmanager
def without_stopping(what: str, errors: type[Exception] = Exception) -> Iterator[None]:
    """Go on training when something cannot be written or sent, and say so once for each kind of thing.

    Args:
        what: What is written, for the warning.
        errors: What becomes a warning.

    Yields:
        Nothing; inside, a full disk, a lost network and what W&B raises become a warning.

    Example:
        >>> with warnings.catch_warnings(record=True) as told, without_stopping("writing a page"):
        ...     raise OSError("the disk is full")
        >>> str(told[0].message)
        'writing a page failed (OSError: the disk is full); training goes on without'
    """
    try:
        yield
    except errors as error:
        reason = first_line(error)
        _warn_once(what, f"{what} failed ({type(error).__name__}: {reason}); training goes on without")


@functools.lru_cache(maxsize=64)
def _warn_once(what: str, sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)


FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""


def as_text(value: Any) -> Any:
    """Keep a cell of CSV from being taken for a formula, which spreadsheets compute as they open the file.

    Args:
        value: Of the cell; the name of a class or of a file may be anything.

    Returns:
        The same; a text that begins as a formula with an apostrophe before it.

    Example:
        >>> as_text("=1+1"), as_text("cat"), as_text(-1.5)
        ("'=1+1", 'cat', -1.5)
    """
    if isinstance(value, str) and value.startswith(FORMULAS):
        return f"'{value}"
    return value
