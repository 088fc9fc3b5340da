"""Files that tell whether they are as they were written."""

import hashlib
import io
import json
import random
import warnings

import pytest

from primenet_lightning.checksums import (
    ENDS,
    GrowingFile,
    is_changed,
    is_damaged,
    mention_change,
    read_json,
    read_text,
    with_end,
    with_first_line,
    without_first_line,
    write_json,
)

VALUES = {"error": 2.5, "by name": {"a": 1, "b": [True, None, "caf\u00e9"]}, "nan": 1e300}


def test_json_comes_back_without_its_check_sum(tmp_path):
    path = write_json(tmp_path / "it.json", VALUES, indent=2)
    assert read_json(path, "") == VALUES
    # laid out otherwise, it is the same
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_json(path, "") == VALUES


def test_one_wrong_byte_of_json_is_refused_or_without_effect(tmp_path):
    """Every other byte, replaced by another."""
    path, moments = write_json(tmp_path / "it.json", VALUES), random.Random(0)
    content = path.read_bytes()
    for place in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[place] ^= moments.randrange(1, 256)
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                values = read_json(path, "run it again")
            except ValueError:
                continue
        if told:  # it looks as if it had none
            values = {name: values[name] for name in VALUES}
        assert values == VALUES


def test_an_old_file_is_taken_with_a_word(tmp_path):
    (tmp_path / "it.json").write_text('{"a": 1}')
    with pytest.warns(UserWarning, match=r"it\.json has no check sum, as of an earlier version"):
        assert read_json(tmp_path / "it.json", "") == {"a": 1}
    (tmp_path / "it.csv").touch()
    with pytest.warns(UserWarning, match=r"it\.csv has no check sum"):
        GrowingFile(tmp_path / "it.csv").check("")


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff{}"])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "it.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"it\.json is damaged \(no .*\); run it again"):
        read_json(tmp_path / "it.json", "run it again")


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "it").write_bytes(b"a\xff")
    with pytest.raises(ValueError, match=r"it is damaged \(no text in UTF-8: .*\); mend it"):
        read_text(tmp_path / "it", "mend it")


def test_the_first_line_of_yaml_is_what_sha256sum_says():
    text = with_first_line("depth: 2\n")
    assert text.splitlines()[0].endswith(hashlib.sha256(b"depth: 2\n").hexdigest())
    assert without_first_line(text) == without_first_line("depth: 2\n") == "depth: 2\n"


def test_a_change_by_a_user_is_mentioned_and_no_more():
    text = with_first_line("depth: 2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mention_change("config.yaml", text)
        mention_change("config.yaml", "depth: 3\n")
    with pytest.warns(UserWarning, match=r"config\.yaml is not as it was written, .* take its first line out"):
        mention_change("config.yaml", text.replace("depth: 2", "depth: 3"))
    for length in range(len(text) - 9, len(text)):
        assert is_changed(text[:length])


def picture_of(kind):
    from PIL import Image

    if kind == "svg":
        return with_end(b"<svg><g/></svg>\n", "svg")
    content = io.BytesIO()
    Image.new("L", (20, 20), 70).save(content, kind)
    return content.getvalue() if kind == "png" else with_end(content.getvalue(), "gif")


@pytest.mark.parametrize("kind", ["png", "svg", "gif"])
def test_a_damaged_picture_is_known(tmp_path, kind):
    content, path = picture_of(kind), tmp_path / f"it.{kind}"
    path.write_bytes(content)
    assert not is_damaged(path)
    length = len(content) - len(ENDS[kind][0] if kind in ENDS else b"") - 70
    for place in range(8, max(length, 15), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert is_damaged(path)
    for shorter in (1, 30, len(content) - 9):
        path.write_bytes(content[:-shorter])
        assert is_damaged(path)


def test_a_growing_file_is_checked_as_far_as_it_was_noted(tmp_path):
    path = tmp_path / "it.csv"
    checked = GrowingFile(path)
    path.write_bytes(b"a,b\r\n1,2\r\n")
    checked.note()
    with path.open("ab") as file:
        file.write(b"3,4\r\n")
    checked.note()
    with path.open("ab") as file:
        file.write(b"5,")  # a crash
    with pytest.warns(UserWarning, match=r"it\.csv is longer than its check sum says, as after a crash"):
        GrowingFile(path).check("")
    for damaged in (b"a,b\r\n1,3\r\n3,4\r\n", b"a,b\r\n1,2\r\n"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"it\.csv is not as it was written.*; delete it, or delete .*sha256"):
            GrowingFile(path).check("delete it")
    checked.forget()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("beside", [b"", b"\xff", b"nothing", b"00 -3", b"00 many"])
def test_a_damaged_check_sum_is_refused(tmp_path, beside):
    path = tmp_path / "it.csv"
    path.write_text("a")
    GrowingFile(path).beside.write_bytes(beside)
    with pytest.raises(ValueError, match=r"delete .*\.it\.csv\.sha256"):
        GrowingFile(path).check("delete it")
