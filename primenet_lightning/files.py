"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
