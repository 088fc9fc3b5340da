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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "metrics.csv"]
    assert logger.log_dir == str(tmp_path)
