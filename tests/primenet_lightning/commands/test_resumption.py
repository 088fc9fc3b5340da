"""Which folder a run lives in, and with which options it goes on."""

import pytest
import yaml
from lightning.pytorch.utilities import rank_zero_only

from primenet_lightning.commands.resumption import (
    RUN_VARIABLE,
    batches_done,
    new_run,
    requeued,
    run_config,
    started_by_others,
    with_run_config,
)
from primenet_lightning.runs.folder import RunFolder

OPTIONS = {
    "run": None,
    "model": {"class_path": "primenet_lightning.PrimeNet", "init_args": {"size": "paper"}},
    "data": {"class_path": "primenet_lightning.datamodules.DigitsDataModule"},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was begun, below the folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder("begun")
    run.path.mkdir()
    run.config.write_text("seed_everything: 3\n")
    return run


# -- the command line


@pytest.mark.parametrize("given", [["--run", "begun"], ["--run=begun"]])
def test_a_requeued_job_resumes_its_own_run(run, monkeypatch, given):
    command = ["fit", "--a=1", *given, "--b", "2"]
    assert requeued(command) == command
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert requeued(command) == command
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert requeued(command) == ["fit", "--resume=begun", "--a=1", "--b", "2"]
    assert with_run_config(command) == ["fit", "--config", str(run.config), "--resume=begun", "--a=1", "--b", "2"]


def test_a_requeued_job_that_never_began_begins_and_others_are_left_alone(run, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for command in (["fit", "--run=other"], ["fit", "--run"], ["fit"], ["test", "--run=begun"], []):
        assert requeued(command) == command


def test_a_run_that_is_named_and_is_none_is_told(run):
    with pytest.raises(FileNotFoundError, match="other is no run folder"):
        with_run_config(["fit", "--resume=other"])


# -- options


def test_the_config_of_today_is_given_by_its_path_and_that_of_0_1_in_todays_words(run):
    assert run_config(run) == str(run.config)
    options = {"update": "end_of_batch", "backward": "capsule", "overlap": True, "depth": 2}
    others = {"seed_everything": 3, "data": {"class_path": "Digits"}}
    run.config.write_text(yaml.safe_dump(others | {"model": {"class_path": "PrimeNet", "init_args": options}}))
    todays = {"step": "batch", "backward": "learner", "exchange": "stage", "depth": 2}
    config = yaml.safe_load(run_config(run))
    assert config == others | {"model": {"class_path": "PrimeNet", "init_args": todays}}
    run.config.write_text(yaml.safe_dump({"model": options}))
    assert yaml.safe_load(run_config(run)) == {"model": todays}


# -- the folder


def test_a_new_run_is_named_by_data_and_size_or_by_data_and_model(run):
    assert new_run(OPTIONS).path.name.startswith("digits-paper-")
    baseline = OPTIONS | {"model": {"class_path": "primenet_lightning.baselines.CifarResNet20"}}
    assert new_run(baseline).path.name.startswith("digits-cifarresnet20-")
    with pytest.raises(FileExistsError, match="run=begun exists already"):
        new_run(OPTIONS | {"run": "begun"})


def test_processes_agree_on_the_folder_that_the_first_one_made(run, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert new_run(OPTIONS | {"run": "begun"}).path == run.path
    monkeypatch.setenv(RUN_VARIABLE, "begun")
    assert new_run(OPTIONS).path == run.path


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS", "JSM_NAMESPACE_SIZE"])
def test_processes_that_others_started_need_a_name(run, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    assert not started_by_others()
    monkeypatch.setenv(variable, "2")
    assert started_by_others()
    with pytest.raises(ValueError, match="run=None makes up a name from the time"):
        new_run(OPTIONS)
    assert new_run(OPTIONS | {"run": "named"}).path.name == "named"


def test_a_run_counts_as_finished_only_once_it_is_summed_up(run):
    progress = {"epoch_progress": {"current": {"processed": 3}}}
    progress["epoch_loop.batch_progress"] = {"total": {"ready": 12}}
    saved = {"loops": {"fit_loop": progress}, "global_step": 6}
    assert batches_done(run, saved, {"max_epochs": 3, "max_steps": -1}) == 12
    run.write_summary({})
    assert batches_done(run, saved, {"max_epochs": 4, "max_steps": -1}) == 12
    assert batches_done(run, saved, {"max_epochs": None, "max_steps": 7}) == 12
    with pytest.raises(ValueError, match=r"max_epochs=3 is reached; to train on, raise --trainer\.max_epochs above 3"):
        batches_done(run, saved, {"max_epochs": 3, "max_steps": -1})
    with pytest.raises(ValueError, match=r"max_steps=5 is reached; to train on, raise --trainer\.max_steps above 6"):
        batches_done(run, saved, {"max_epochs": None, "max_steps": 5})
