"""``primenet card`` of a run folder."""

from pathlib import Path

import pytest
import yaml

from primenet_lightning import pretrained
from primenet_lightning.commands import card as command
from primenet_lightning.commands.main import main
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.summary import versions

SUMMARY = {
    "model": "PrimeNet",
    "dataset": "digits",
    "seed": 3,
    "test_error": 1.9499,
    "validation_error": 2.7778,
    "parameters": 48196,
    "multiply_adds_inference": 1387264,
    "multiply_adds_training": 4116736,
    "epochs": 40,
    "seconds": 61.0,
    "peak_memory_bytes": None,
    "versions": versions(),
    "git_commit": "abc123",
}
CONFIG = {
    "seed_everything": 3,
    "trainer": {"max_epochs": 40, "precision": None},
    "model": {"class_path": "primenet_lightning.PrimeNet", "init_args": {"depth": 2, "router": "concatenate"}},
    "data": {"class_path": "primenet_lightning.datamodules.DigitsDataModule", "init_args": {"batch_size": 32}},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run, whose checkpoint describes the digits."""
    folder = RunFolder(tmp_path / "mine")
    folder.path.mkdir()
    folder.config.write_text(yaml.safe_dump(CONFIG))
    folder.write_summary(SUMMARY)
    description = pretrained("digits").data_description | {"fit": None}
    monkeypatch.setattr(command, "_description_of", lambda run: description)
    return folder


def test_a_card_says_what_the_run_says(run, capsys):
    assert main(["card", str(run.path)]) == 0
    assert capsys.readouterr().out == f"{run.path / 'card.md'}\n"
    text = run.card.read_text()
    for part in (
        "# mine\n",
        "PrimeNet on digits, seed 3",
        "| test error | 1.95 % | 7 of 359 | 0.95 to 3.97 % |",
        "least validation error (2.78 %)",
        "Commit: abc123",
        "| what a block hands on | concatenate |",
        "| time of training | 1 min (61 s) |",
        "Creative Commons Attribution 4.0",
        "Nobody has stated a licence of these weights",
        "is refused, unless `--fit` says",
        "seed_everything: 3",
    ):
        assert part in text, part
    assert "as they are stored" not in text
    assert main(["card", str(run.path), "--licence", "CC0"]) == 0  # written anew, as report.html is
    assert "The weights: CC0." in run.card.read_text()


def test_stored_weights_are_measured_on_the_runs_test_images(run, tmp_path):
    folder = pretrained("digits").half().save_pretrained(tmp_path / "stored")
    assert main(["card", str(run.path), "--weights", str(folder), "--out", str(tmp_path / "a.md")]) == 0
    text = (tmp_path / "a.md").read_text()
    assert text.startswith("# stored\n")
    assert "as they are stored** | 1.95 % | 7 of 359 |" in text
    assert "stored as float16" in text
    assert "Dark ink on a light ground is inverted" in text
    assert not run.card.exists()


def test_data_that_nobody_knows_have_no_interval(run):
    run.write_summary(SUMMARY | {"dataset": "beans", "git_commit": None})
    assert main(["card", str(run.path)]) == 0
    text = run.card.read_text()
    assert "| test error | 1.95 % | not counted | not known |" in text
    assert 'The data set "beans", which this package does not know' in text
    run.write_summary(SUMMARY | {"dataset": "beans", "test_images": 200, "test_error": 0.0})
    assert main(["card", str(run.path)]) == 0
    assert "| test error | 0.00 % | 0 of 200 | 0.00 to 1.88 % |" in run.card.read_text()


def test_what_has_no_card_is_told(run, tmp_path, capsys):
    def refused(*args):
        assert main(["card", *args]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        return told

    (tmp_path / "there.md").write_text("mine")
    assert "there.md exists already and is not overwritten" in refused(
        str(run.path), "--out", str(tmp_path / "there.md")
    )
    assert "is no run folder" in refused(str(tmp_path / "nothing"))
    run.summary.unlink()
    assert "has no summary.json: the run has not finished" in refused(str(run.path))
    assert Path(tmp_path, "there.md").read_text() == "mine"
    assert not run.card.exists()
