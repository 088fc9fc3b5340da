"""Check sums, by which a file tells whether it is as it was written: inside of JSON and YAML, beside of CSV."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primenet_lightning.arguments import first_line
from primenet_lightning.files import write_whole

KEY = "sha256"
"""Under which JSON has the check sum of its other entries."""

LAST_LINE = "# sha256 of the lines above: "
"""How the last line of YAML begins that has a check sum."""


def read_text(path: str | Path, remedy: str) -> str:
    """Read a file of text.

    Args:
        path: The file.
        remedy: What to do about one that is damaged, for the error.

    Returns:
        Its content, the line ends as they are.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no UTF-8.
    """
    try:
        return Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged (no text in UTF-8: {error.reason}); {remedy}") from None


def digest_of(values: Any) -> str:
    """Compute the check sum of values, which does not depend on how JSON is laid out.

    Args:
        values: That JSON can hold.

    Returns:
        SHA-256, in hexadecimal digits.

    Example:
        >>> digest_of({"a": 1, "b": [2.5]}) == digest_of({"b": (2.5,), "a": 1})
        True
    """
    as_read = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def write_json(path: str | Path, values: Mapping[str, Any], **layout: Any) -> Path:
    """Write values as JSON with a check sum, by `whole`.

    Args:
        path: The file.
        values: By name.
        **layout: Of ``json.dumps``, as ``indent=2``.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_json(Path(folder, "result.json"), {"error": 2.5})
        ...     print(file.read_text()[:27], read_json(file, "run it again"))
        {"error": 2.5, "sha256": "1 {'error': 2.5}
    """
    return write_whole(path, json.dumps({**values, KEY: digest_of(values)}, **layout) + "\n")


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Args:
        path: The file; one without a check sum, of an earlier version, is taken with a warning.
        remedy: What to do about one that is damaged, for the error.

    Returns:
        The values by name.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not as it was written.
    """
    try:
        values = json.loads(read_text(path, remedy))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged (no JSON: {first_line(error)}); {remedy}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (no values by name); {remedy}")
    if KEY not in values:
        warn_of_none(path)
        return values
    if values.pop(KEY) != digest_of(values):
        raise ValueError(
            f"{path} is not as it was written, its check sum is another: it was damaged or edited; {remedy}, or take "
            f"its entry {KEY!r} out to have it as it is"
        )
    return values


def warn_of_none(path: str | Path) -> None:
    """Say that a file cannot be checked.

    Args:
        path: Of the file.
    """
    warnings.warn(f"{path} has no check sum, as of an earlier version: it is taken as it is", stacklevel=3)


# -- files that users edit ---------------------------------------------------------------------------------------------


def with_last_line(text: str) -> str:
    """Put a check sum below YAML, as a comment.

    Args:
        text: Whole lines.

    Returns:
        One line more.

    Example:
        >>> print(with_last_line("epochs: 3" + chr(10))[:50])
        epochs: 3
        # sha256 of the lines above: 862d9fdd27
    """
    return f"{text}{LAST_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n"


def mention_change(path: str | Path, text: str) -> None:
    """Warn of YAML that is not as it was written; users may edit it, so that this is no error.

    Args:
        path: Of the file.
        text: Its content; without a check sum nothing is said.

    Example:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     mention_change("config.yaml", with_last_line("epochs: 3" + chr(10)).replace("3", "4", 1))
        >>> print(str(told[0].message).partition(":")[0])
        config.yaml is not as it was written
    """
    above, mark, digest = text.rpartition(LAST_LINE)
    if mark and hashlib.sha256(above.encode()).hexdigest() != digest.strip():
        warnings.warn(
            f"{path} is not as it was written: its options are taken as they stand there now; take its last line out "
            "if that is meant",
            stacklevel=2,
        )


# -- files that grow ---------------------------------------------------------------------------------------------------


class GrowingFile:
    """The check sum of a file that lines are added to, in a hidden file beside it.

    It is of the first so many bytes: what a crash left behind them is not checked.

    Args:
        path: The file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = Path(folder, "table.csv")
        ...     _ = table.write_text("a,b")
        ...     GrowingFile(table).note()
        ...     _ = table.write_text("a,c")
        ...     GrowingFile(table).check("run it again")
        Traceback (most recent call last):
        ...
        ValueError: ...table.csv is not as it was written...
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.beside = self.path.with_name(f".{self.path.name}.sha256")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def forget(self) -> None:
        """Take the check sum away, before the file is written anew."""
        self.beside.unlink(missing_ok=True)
        self._digest, self._bytes = hashlib.sha256(), 0

    def note(self) -> None:
        """Take in what was added to the file since the last time, and write the check sum."""
        with self.path.open("rb") as file:
            file.seek(self._bytes)
            added = file.read()
        self._digest.update(added)
        self._bytes += len(added)
        write_whole(self.beside, f"{self._digest.hexdigest()} {self._bytes}\n")

    def check(self, remedy: str) -> None:
        """Compare the file with its check sum; without one, as of an earlier version, there is a warning.

        Args:
            remedy: What to do about a file that is damaged, for the error.

        Raises:
            ValueError: If it is not as it was written.
        """
        if not self.beside.is_file():
            warn_of_none(self.path)
            return
        digest, _, count = read_text(self.beside, f"delete {self.beside}").partition(" ")
        content = self.path.read_bytes()
        length = int(count) if count.strip().isdecimal() else -1
        if len(content) < length or hashlib.sha256(content[: max(length, 0)]).hexdigest() != digest:
            raise ValueError(
                f"{self.path} is not as it was written, its check sum is another: it was damaged or edited; {remedy}, "
                f"or delete {self.beside} to have it as it is"
            )
