import csv

import pytest

from primenet_lightning.callbacks.csv_log import ResumableCSVLogger


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(logger, steps, **metrics):
    for step in steps:
        logger.log_metrics({"loss": step / 10, **metrics}, step=step)
    logger.save()


def test_rows_that_are_done_again_are_dropped_and_the_others_kept(tmp_path):
    log(ResumableCSVLogger(tmp_path), range(5))
    log(ResumableCSVLogger(tmp_path, resume_at=3), range(3, 6))
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(str(s), str(s / 10)) for s in range(6)]


def test_new_columns_after_resuming_keep_the_old_rows(tmp_path):
    log(ResumableCSVLogger(tmp_path), range(2))
    log(ResumableCSVLogger(tmp_path, resume_at=2), [2], error=7)
    assert rows(tmp_path) == [
        {"error": "", "loss": "0.0", "step": "0"},
        {"error": "", "loss": "0.1", "step": "1"},
        {"error": "7", "loss": "0.2", "step": "2"},
    ]


def test_new_run_begins_a_new_file(tmp_path):
    log(ResumableCSVLogger(tmp_path), range(5))
    log(ResumableCSVLogger(tmp_path), [0])
    assert len(rows(tmp_path)) == 1


@pytest.mark.filterwarnings("error")
def test_resuming_where_nothing_was_logged(tmp_path):
    (tmp_path / "config.yaml").touch()
    logger = ResumableCSVLogger(tmp_path, resume_at=7)
    logger.log_hyperparams({"depth": 1})
    log(logger, [7])
    assert [row["step"] for row in rows(tmp_path)] == ["7"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".metrics.csv.sha256",
        "config.yaml",
        "metrics.csv",
    ]
    assert logger.log_dir == str(tmp_path)


def test_a_row_that_a_crash_cut_short_is_dropped(tmp_path):
    """Cut to "1", its step would be one to keep."""
    log(ResumableCSVLogger(tmp_path), range(13))
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[: -len("2\r\n")])
    assert path.read_bytes().endswith(b"1.2,1")
    log(ResumableCSVLogger(tmp_path, resume_at=12), [12])
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(13)]


def test_a_crash_while_a_column_is_added_loses_no_row(tmp_path, monkeypatch):
    logger = ResumableCSVLogger(tmp_path)
    log(logger, range(5))
    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log(logger, [5], error=7)
    assert len(rows(tmp_path)) == 5


def test_a_full_disk_loses_no_row_and_stops_nothing(tmp_path, monkeypatch, recwarn):
    logger = ResumableCSVLogger(tmp_path)
    log(logger, range(3))
    with monkeypatch.context() as patch:

        def half(self, rows):
            self.writer.writerow(["half a row"])
            raise OSError(28, "No space left on device")

        patch.setattr(csv.DictWriter, "writerows", half)
        log(logger, range(3, 5))
    log(logger, range(5, 7))
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(7)]
    assert any("No space left on device); training goes on" in str(w.message) for w in recwarn)
