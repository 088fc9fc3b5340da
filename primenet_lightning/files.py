"""Files that are whole or not there, and work that goes on when one of them cannot be written."""

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(Path(folder, "numbers.txt")) as draft:
        ...         _ = draft.write_text("1 2 3")
        ...     [file.name for file in Path(folder).iterdir()]
        ['numbers.txt']
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.part")
    try:
        yield draft
        _bring_to_disk(draft)
        draft.replace(place)
    finally:
        draft.unlink(missing_ok=True)


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
