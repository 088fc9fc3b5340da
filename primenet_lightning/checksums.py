"""Check sums, by which a file tells whether it is as it was written: inside of JSON and YAML, beside of CSV."""

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

from primenet_lightning.arguments import first_line
from primenet_lightning.files import write_whole

KEY = "sha256"
"""Under which JSON has the check sum of its other entries."""

FIRST_LINE = "# sha256 of the lines below: "
"""How YAML begins that has a check sum."""


AT_ONCE = 2**22
"""Bytes of a large file that are in memory at a time."""


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


def digest_of_start(file: BinaryIO, count: int) -> bytes:
    """Compute the SHA-256 of the first bytes of a file, and leave it behind them.

    Args:
        file: Open for reading; a large one is never in memory as a whole.
        count: How many bytes.

    Returns:
        32 bytes.

    Example:
        >>> digest_of_start(io.BytesIO(b"abc, and more"), 3).hex()[:8]
        'ba7816bf'
    """
    file.seek(0)
    digest = hashlib.sha256()
    while count > 0:
        data = file.read(min(count, AT_ONCE))
        if not data:
            break
        digest.update(data)
        count -= len(data)
    return digest.digest()


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
        ...     print(file.read_text()[:24], read_json(file, "run it again"))
        {"error": 2.5, "sha256": {'error': 2.5}
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


def with_first_line(text: str) -> str:
    """Put a check sum above YAML, as a comment.

    Args:
        text: Whole lines.

    Returns:
        One line more.

    Example:
        >>> print(with_first_line("epochs: 3" + chr(10))[:50])
        # sha256 of the lines below: 291b3b365f08feef85d98
    """
    return f"{FIRST_LINE}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def without_first_line(text: str) -> str:
    """Give YAML without its check sum.

    Args:
        text: With or without one.

    Returns:
        What stands below.
    """
    return text.partition("\n")[2] if text.startswith(FIRST_LINE) else text


def is_changed(text: str) -> bool:
    """Tell whether YAML is not as it was written.

    Args:
        text: Content of the file.

    Returns:
        False also of one without a check sum.

    Example:
        >>> text = with_first_line("epochs: 3" + chr(10))
        >>> is_changed(text), is_changed(text.replace("epochs: 3", "epochs: 4")), is_changed("epochs: 4")
        (False, True, False)
    """
    return text.startswith(FIRST_LINE) and with_first_line(without_first_line(text)) != text


def mention_change(path: str | Path, text: str) -> None:
    """Warn of YAML that is not as it was written; users may edit it, so that this is no error.

    Args:
        path: Of the file.
        text: Its content.
    """
    if is_changed(text):
        warnings.warn(
            f"{path} is not as it was written, its check sum is another: its options are taken as they stand there "
            "now; take its first line out if you have edited it",
            stacklevel=3,
        )


# -- pictures ----------------------------------------------------------------------------------------------------------

ENDS: Mapping[str, tuple[bytes, bytes]] = {"svg": (b"<!-- sha256 of the above: ", b" -->\n"), "gif": (b"sha256:", b"")}
"""What stands before and after the check sum, by the kind of a picture, behind its own end; a PNG has its own."""


END_OF_PNG = b"IEND\xaeB`\x82"
"""What a PNG ends with: a part without content, and its check sum."""


def with_end(picture: bytes, kind: str) -> bytes:
    """Put a check sum behind the end of a picture, where no program that shows it looks.

    Args:
        picture: Content of its file.
        kind: ``"svg"`` or ``"gif"``.

    Returns:
        The content, and the check sum.
    """
    before, after = ENDS[kind]
    return picture + before + hashlib.sha256(picture).hexdigest().encode() + after


def is_damaged(path: str | Path) -> bool:
    """Tell whether a picture is not as it was written.

    Args:
        path: A PNG, SVG or GIF.

    Returns:
        False also of an SVG or a GIF without a check sum.
    """
    picture, kind = Path(path).read_bytes(), Path(path).suffix.removeprefix(".")
    if kind == "png":
        return _is_damaged_png(picture)
    before, after = ENDS[kind]
    above, mark, digest = picture.rpartition(before)
    if mark:
        return hashlib.sha256(above).hexdigest().encode() + after != digest
    return not picture.endswith(b";") if kind == "gif" else _is_cut_off(picture)


def _is_cut_off(drawing: bytes) -> bool:
    try:
        ElementTree.fromstring(drawing)
    except ElementTree.ParseError:
        return True
    return False


def _is_damaged_png(picture: bytes) -> bool:
    from PIL import Image  # which commands without pictures do not need

    if not picture.endswith(END_OF_PNG):
        return True
    try:
        with Image.open(io.BytesIO(picture), formats=["png"]) as image:
            image.verify()
    except Exception:  # Pillow raises whatever its decoder makes of damaged bytes
        return True
    return False


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
        ...     GrowingFile(table).check("run it again")
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['.table.csv.sha256', 'table.csv']
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
        if len(content) > length:
            told = f"{self.path} is longer than its check sum says, as after a crash: the rest is taken as it is"
            warnings.warn(told, stacklevel=2)
