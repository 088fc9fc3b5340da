import json
import os
import re

import pytest

from primenet_lightning.runs import folder as runs
from primenet_lightning.runs.folder import RunFolder


def test_new_folder_is_not_made_yet_and_never_an_old_one(tmp_path, monkeypatch):
    run = RunFolder.new(None, "digits-compact", parent=tmp_path)
    assert re.fullmatch(r"digits-compact-\d{8}-\d{6}", run.path.name)
    assert not run.path.exists()

    class Noon:
        @staticmethod
        def now():
            return runs_datetime(2024, 5, 6, 12)

    runs_datetime = runs.datetime
    monkeypatch.setattr(runs, "datetime", Noon)
    (tmp_path / "x-20240506-120000").mkdir()
    assert RunFolder.new(None, "x", parent=tmp_path).path.name == "x-20240506-120000-2"

    (tmp_path / "empty").mkdir()
    assert RunFolder.new(tmp_path / "empty", "").path == tmp_path / "empty"
    (tmp_path / "empty/file").touch()
    with pytest.raises(FileExistsError, match=r"exists already and is not overwritten.*--resume"):
        RunFolder.new(tmp_path / "empty", "")


def test_existing_folder_needs_its_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it has no config\.yaml"):
        RunFolder.existing(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert RunFolder.existing(str(tmp_path)).config == tmp_path / "config.yaml"


def test_checkpoints_are_found_where_they_are(tmp_path):
    run = RunFolder(tmp_path)
    assert run.last is None
    run.checkpoints.mkdir()
    (run.checkpoints / "last.ckpt").touch()
    assert run.last == run.checkpoints / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=r"best\.ckpt does not exist: the run stopped before"):
        _ = run.best


def test_wandb_id_is_that_of_the_runs_own_files(tmp_path):
    run = RunFolder(tmp_path)
    assert run.wandb_id is None
    path = tmp_path / "wandb/offline-run-20240101_000000-ab12/run-ab12.wandb"
    path.parent.mkdir(parents=True)
    path.touch()
    assert run.wandb_id == "ab12"


def test_summary_is_json(tmp_path):
    path = RunFolder(tmp_path).write_summary({"test_error": 2.5, "routing": [[0.25, 0.75]]})
    assert path == tmp_path / "summary.json"
    written = json.loads(path.read_text())
    assert len(written.pop("sha256")) == 64
    assert written == {"test_error": 2.5, "routing": [[0.25, 0.75]]}
    assert RunFolder(tmp_path).read_summary() == written
    assert RunFolder(tmp_path / "other").read_summary() == {}


def test_a_run_folder_stands_for_its_path_and_knows_its_files(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.touch()
    assert os.listdir(run) == ["metrics.csv"]
    assert RunFolder(run).path == tmp_path
    files = (run.config, run.summary, run.report, run.figure("losses"), run.probe(), run.probe("routed", "finetune"))
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        *("config.yaml", "summary.json", "report.html", "figures/losses.png", "probe.json"),
        "probe-routed-finetune.json",
    ]
