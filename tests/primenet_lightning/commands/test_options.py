"""Every option is followed, or refused in a sentence; and ``config.yaml`` says what was done."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from lightning.pytorch import Callback

from primenet_lightning.commands.loggers import RunLoggers
from primenet_lightning.commands.main import COMMANDS, main, with_home
from primenet_lightning.commands.probe import load_data
from primenet_lightning.commands.wandb_process import wandb_words
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.runs.folder import RunFolder

QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.max_epochs=1",
    "--figures=false",
    "--model.channels=4",
    "--model.head_channels=8",
    "--model.reduce_channels=2",
    "--model.projection_channels=4",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)


class Stripes(ImageDataModule):
    """Two classes of random pictures; it notes the seeds that it was split by."""

    name, class_names = "stripes", ("flat", "upright")
    num_classes, in_channels, image_size = 2, 1, (8, 8)
    seeds: list[int] = []  # noqa: RUF012

    def load_arrays(self):
        self.seeds.append(self.seed)
        images = np.random.default_rng(0).integers(0, 255, (80, 8, 8), dtype=np.uint8)
        return images, np.arange(80) % 2, images, np.arange(80) % 2


class FailsAtTheFirstBatch(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        raise RuntimeError("out of memory")


class FailsAtTheSecondBatch(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            raise RuntimeError("out of memory")


def saved(run):
    return yaml.safe_load(Path(run, "config.yaml").read_text())


# -- seeds


STRIPES = f"--data={__name__}.Stripes"


@pytest.mark.parametrize(
    ("given", "seed"),
    [
        (["--seed_everything=5"], 5),
        (["--seed_everything=5", "--data.seed=0"], 0),
        (["--data.init_args.seed", "3"], 3),
        ([f"--data={{class_path: {__name__}.Stripes, init_args: {{seed: 7}}}}"], 7),
    ],
)
def test_the_datas_seed_is_that_of_the_run_unless_it_is_given(given, seed):
    Stripes.seeds.clear()
    assert main(["fit", STRIPES, *given, *QUICK, "--run=mine"]) == 0
    assert set(Stripes.seeds) == {seed}
    assert load_data(RunFolder("mine")).seed == seed
    assert ("seed" in saved("mine")["data"]["init_args"]) == (given != ["--seed_everything=5"])


def test_a_resumed_run_keeps_the_datas_seed():
    assert main(["fit", STRIPES, "--data.seed=3", *QUICK, "--run=mine"]) == 0
    Stripes.seeds.clear()
    assert main(["fit", "--resume=mine", "--trainer.max_epochs=2"]) == 0
    assert set(Stripes.seeds) == {3}
    assert saved("mine")["data"]["init_args"]["seed"] == 3


@pytest.mark.parametrize("name", ["num_classes", "in_channels", "image_size"])
def test_what_the_data_say_is_not_the_models_to_be_told(name, capsys):
    Path("own.yaml").write_text(f"model: {{class_path: primenet_lightning.PrimeNet, init_args: {{{name}: 3}}}}")
    for given in ([f"--model.{name}=3"], [f"--model.init_args.{name}", "3"], ["--config=own.yaml"], ["-c", "own.yaml"]):
        assert main(["fit", *given]) == 1
        assert f"model.{name}=3 is the data module's to say" in capsys.readouterr().err


# -- places


def test_runs_lie_below_the_default_root_dir():
    assert main(["fit", *QUICK, "--trainer.default_root_dir=elsewhere"]) == 0
    (run,) = Path("elsewhere").iterdir()
    assert (run / "summary.json").is_file()
    assert saved(run)["trainer"]["default_root_dir"] == "elsewhere"
    assert not Path("runs").exists()


def test_the_home_folder_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert with_home("--run=~/mine") == f"--run={tmp_path}/home/mine"
    assert with_home("~/a.png") == f"{tmp_path}/home/a.png"
    for same in ("a~/b", "--run=~", "--model.router=~x", "-1"):
        assert with_home(same) == same
    assert RunFolder("~/mine").path == tmp_path / "home/mine"
    assert main(["fit", *QUICK, "--run=~/mine"]) == 0
    assert main(["report", "~/mine"]) == 0
    assert not Path("~").exists()
    assert (tmp_path / "home/mine/report.html").is_file()


@pytest.mark.parametrize("place", ["new", "empty", "deep/down/new"])
def test_a_start_that_failed_leaves_its_name_free(place, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("empty").mkdir()
    fails = f"--trainer.callbacks={__name__}.FailsAtTheFirstBatch"
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["fit", *QUICK, fails, f"--run={place}"])
    assert not Path(place).exists()
    assert main(["fit", *QUICK, f"--run={place}"]) == 0


def test_a_run_that_has_begun_stays():
    fails = f"--trainer.callbacks={__name__}.FailsAtTheSecondBatch"
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["fit", *QUICK, fails, "--run=mine"])
    assert Path("mine/checkpoints/last.ckpt").is_file()


def test_a_folder_is_tried_without_a_trace(tmp_path):
    Path("there").mkdir()
    for place in ("there", "new", "a/b/c"):
        RunFolder(place).try_writing()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with pytest.raises(OSError, match="run=/proc/a/b cannot be written"):
        RunFolder("/proc/a/b").try_writing()


# -- the Trainer


def test_a_test_that_is_left_out_is_told(capsys):
    assert main(["fit", *QUICK, "--trainer.limit_test_batches=0", "--run=mine"]) == 0
    assert "No test and no summary.json: limit_test_batches=0 leaves the test out" in capsys.readouterr().out
    assert Path("mine/checkpoints/best.ckpt").is_file()
    assert main(["fit", "--resume=mine", "--trainer.limit_test_batches=1"]) == 0  # the training is done: it is tested
    assert Path("mine/summary.json").is_file()


def test_a_fast_dev_run_says_that_nothing_was_written(capsys):
    assert main(["fit", *QUICK, "--trainer.fast_dev_run=true", "--run=mine"]) == 0
    assert "nothing was written" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "test"])
def test_options_of_fit_are_refused_where_nobody_follows_them(command, capsys):
    for option in ("--resume=mine", "--figures=false", "--every_n_train_steps=5"):
        assert main([command, option]) == 1
        assert f"{option} is an option of primenet fit" in capsys.readouterr().err
    assert main(["fit", "--resume=mine", "--weights_only=false"]) == 1


# -- W&B


def test_wandbs_environment_variables_are_followed(monkeypatch, capsys):
    def begun():
        logger = RunLoggers(RunFolder("runs/mine"), ["digits"], None).wandb("offline")
        return logger._wandb_init

    assert begun().items() >= {"project": "primenet", "name": "mine", "tags": ["digits"]}.items()
    for name, value in (("PROJECT", "ours"), ("NAME", "first"), ("TAGS", "a,b"), ("RUN_ID", "me"), ("DIR", "there")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    expected = {"project": "ours", "name": "first", "tags": ["digits", "a", "b"], "id": "me"}
    assert begun().items() >= expected.items()
    assert not {"entity", "group", "job_type", "notes"} & set(begun())  # those are W&B's own to read
    assert "WANDB_DIR is not followed" in capsys.readouterr().err
    assert wandb_words()["settings"].silent is True
    monkeypatch.setenv("WANDB_SILENT", "false")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    assert not {"silent", "finish_timeout"} & wandb_words()["settings"].model_fields_set


def test_the_dashboard_is_of_the_project_that_the_environment_names(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    assert main(["dashboard", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert '"us"' in told
    assert '"ours"' in told


# -- the terminal


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_fit_prints_at_most_thirty_lines(mode, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("COLUMNS", "80")
    options = [option for option in QUICK if "model" not in option]
    assert main(["fit", *options, "--run=mine"]) == 0
    printed, errors = capfd.readouterr()
    lines = (printed + errors).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80 + len("W&B: offline; send it with: wandb sync ")
    assert lines.count("report: mine/report.html") == 1
    assert [line for line in lines if line.startswith("best epoch:")] == ["best epoch: 0 (of 0 to 0)"]
    synced = [line for line in lines if "wandb" in line]
    assert len(synced) == (mode == "offline")
    if synced:
        assert Path(synced[0].partition("wandb sync ")[2]).is_dir()


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys; from primenet_lightning.commands.main import main; main([sys.argv[1]]);"
        "assert not {'torch', 'lightning', 'jsonargparse', 'numpy', 'wandb'} & set(sys.modules)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert len(done.stdout.splitlines()) == {"--help": len(COMMANDS) + 4, "--version": 1}[option]


def test_help_of_fit_shows_its_own_options_first(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    told = capsys.readouterr().out
    assert max(told.index(f"--{name}") for name in ("run", "resume", "model.help", "data.help")) < 2000
    assert told.index("--data CONFIG") < told.index("--trainer.accelerator")
