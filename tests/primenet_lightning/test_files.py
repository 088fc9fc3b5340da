"""Files that are whole or not there."""

import warnings
from pathlib import Path

import pytest

from primenet_lightning.files import whole, without_stopping, write_whole


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "it", "old")

    def crash(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise ZeroDivisionError

    monkeypatch.setattr(Path, "write_bytes", crash)
    with pytest.raises(ZeroDivisionError):
        write_whole(path, "new and longer")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_fails_is_taken_away_and_the_old_file_stays(tmp_path):
    path = tmp_path / "folder" / "it"

    def crash():
        with whole(path) as draft:
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        crash()
    assert list(path.parent.iterdir()) == []
    with whole(path) as draft:
        draft.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"


def test_line_ends_and_bytes_are_written_as_they_are(tmp_path):
    assert write_whole(tmp_path / "text", "caf\u00e9\r\n\n").read_bytes() == b"caf\xc3\xa9\r\n\n"
    assert write_whole(str(tmp_path / "bytes"), b"\x00").read_bytes() == b"\x00"


def test_what_cannot_be_written_is_told_once_for_each_kind_of_thing(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            with without_stopping(f"writing {tmp_path}", OSError):
                raise OSError("no space left\nat all")
    assert [str(one.message) for one in told] == [
        f"writing {tmp_path} failed (OSError: no space left); training goes on without"
    ]
    assert told[0].filename == __file__
    with pytest.raises(KeyError), without_stopping("it", OSError):
        raise KeyError
