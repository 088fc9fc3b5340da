"""``primenet predict`` with networks of the package: files, patterns, formats of answers, and what is refused."""

import csv
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from primenet_lightning.commands.main import main
from primenet_lightning.commands.predict import count_files

DIGITS = Path(__file__).parents[3] / "tests" / "data" / "digits"
SMALL = ["predict", "--model", "digits"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Three digits, of which two lie in a folder, and two files that are no images."""
    monkeypatch.chdir(tmp_path)
    Path("more").mkdir()
    for name, place in (("drawn_1", "."), ("drawn_0", "more"), ("scan_7", "more")):
        Path(place, f"{name}.png").write_bytes((DIGITS / f"{name}.png").read_bytes())
    Path("notes.txt").write_text("no image")
    Path("cut.png").write_bytes((DIGITS / "scan_7.png").read_bytes()[:100])
    return tmp_path


def test_files_folders_and_patterns_are_answered_and_what_is_no_image_is_told(pictures, capsys):
    assert main([*SMALL, "drawn_1.png", "notes.txt", "more", "**/scan_*.png", "*.gif", "cut.png"]) == 1
    told = capsys.readouterr()
    assert [line.split("\t")[0] for line in told.out.splitlines()] == [
        "drawn_1.png",
        *(str(Path("more", name)) for name in ("drawn_0.png", "scan_7.png", "scan_7.png")),
    ]
    errors = told.err.splitlines()
    assert [error.split()[1] for error in errors] == ["notes.txt", "*.gif", "cut.png"]
    assert errors[1] == "error: *.gif fits no file; check the pattern."


def test_batches_answer_as_single_images_do(pictures, capsys):
    answers = []
    for size in ("1", "2", "32"):
        assert main([*SMALL, "more", "drawn_1.png", "--batch_size", size]) == 0
        answers.append([line.split("\t") for line in capsys.readouterr().out.splitlines()])
    assert answers[0] == answers[1] == answers[2]


def test_answers_are_written_as_csv(pictures, capsys):
    assert main([*SMALL, "more", "notes.txt", "--top_k", "2", "--out", "answers.csv"]) == 1
    assert capsys.readouterr().out == "answers.csv\n"
    rows = list(csv.DictReader(Path("answers.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [
        *(str(Path("more", f"{n}.png")) for n in ("drawn_0", "scan_7")),
        "notes.txt",
    ]
    assert (rows[0]["label"], rows[1]["label"], rows[2]["label"]) == ("0", "7", "")
    assert 0 <= float(rows[0]["probability_2"]) <= float(rows[0]["probability"]) <= 1
    assert rows[0]["label_2"] not in ("0", "")
    assert "cannot be read as an image" in rows[2]["error"]


def test_answers_are_written_as_json(pictures):
    assert main([*SMALL, "drawn_1.png", "no.png", "--top_k", "99", "--early_exit", "2", "--out", "answers.json"]) == 1
    first, second = json.loads(Path("answers.json").read_text())
    assert first["file"] == "drawn_1.png"
    assert len(first["top"]) == 10
    assert sum(ranked["probability"] for ranked in first["top"]) == pytest.approx(1, abs=1e-5)
    assert first["top"][0] == {"label": first["label"], "probability": first["probability"]}
    assert first["exit"] == 2
    assert first["multiply_adds"] > 1_387_264  # with the classifiers on the way
    assert second == {"file": "no.png", "error": "no.png does not exist; give a folder of images or image files."}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "digit"], "name='digit' is no pretrained network of this package; did you mean digits?"),
        ([], "a trained network is needed, and one alone: give --ckpt RUN or --model NAME"),
        (
            ["--model", "digits", "--ckpt", "runs/x"],
            "a trained network is needed, and one alone: give --ckpt RUN or --model NAME",
        ),
        (["--model", "digits", "--mean", "0.5"], "--mean cannot be changed of model=digits"),
        (["--model", "digits", "--out", "a.xls"], "out=a.xls has no format that is written"),
        (["--model", "digits", "--out", "notes.csv"], "out=notes.csv exists already and is not overwritten"),
        (["--model", "digits", "--fit", "zoom"], "fit='zoom' is unknown; give 'stretch', 'crop', 'pad', 'digit'"),
        (["--model", "digits", "--fit", "pad", "--resize"], "resize=True means fit='stretch', and fit='pad' is given"),
        (["--model", "digits", "--top_k", "0"], "top_k=0"),
        (["--model", "digits", "--batch_size", "0"], "batch_size=0"),
    ],
)
def test_what_cannot_be_is_one_sentence(pictures, capsys, options, message):
    Path("notes.csv").write_text("mine")
    assert main(["predict", *options, "drawn_1.png"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert told.err.count("\n") == 1
    assert Path("notes.csv").read_text() == "mine"


def test_a_folder_of_save_pretrained_is_a_model_too(pictures, capsys):
    from primenet_lightning import pretrained

    pretrained("digits").save_pretrained("folder")
    assert main(["predict", "--model", "folder", "more"]) == 0
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == ["0", "7"]


def test_a_bar_is_shown_on_a_terminal_where_answers_go_elsewhere(pictures, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*SMALL, "more"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "files" not in told.out
    assert count_files(["more", "*.png", "nothing"]) == 5


def test_a_picture_of_the_size_is_taken_as_it_is(tmp_path, capsys):
    """One of scikit-learn's own, which the network has as an array."""
    from sklearn.datasets import load_digits

    pixels = load_digits().images[0] * 255 / 16
    Image.fromarray(pixels.round().astype("uint8")).save(tmp_path / "zero.png")
    assert main([*SMALL, str(tmp_path / "zero.png")]) == 0
    assert capsys.readouterr().out.split("\t")[1] == "0"
