"""``primenet fit`` on several processes, and killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import differences

from primenet_lightning.commands.main import main

ROOT = Path(__file__).resolve().parents[3]
QUICK = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=3"),
    *("--trainer.limit_train_batches=5", "--trainer.limit_test_batches=1", "--trainer.max_epochs=2"),
    *("--model.channels=4", "--model.head_channels=8", "--trainer.strategy=ddp"),
]


def cli(args):
    """What a worker's process would do and how it would end, the signal to one alone included."""
    args, stop = [arg for arg in args if arg != "stop"], "stop" in args
    folder = Path(next(arg for arg in args if arg.startswith(("--run=", "--resume="))).partition("=")[2]).parent
    os.chdir(folder)
    if stop and os.environ["RANK"] == "1":
        from primenet_lightning import PrimeNet

        original = PrimeNet.on_before_optimizer_step

        def within_the_step(self, optimizer):
            PrimeNet.on_before_optimizer_step = original
            signal.raise_signal(signal.SIGTERM)
            original(self, optimizer)

        PrimeNet.on_before_optimizer_step = within_the_step
    try:
        return main(args)
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def unbroken(ranks, tmp_path_factory):
    run = tmp_path_factory.mktemp("cli") / "unbroken"
    assert ranks(cli, ["fit", *QUICK, "--trainer.devices=2", f"--run={run}"]) == [0, 0]
    return run


def checkpoints(run):
    """Both checkpoints, but for the paths in them."""
    both = {name: torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("last", "best")}
    for saved in both.values():
        saved["callbacks"] = {key: value for key, value in saved["callbacks"].items() if "BestCheckpoint" not in key}
    return both


def rows(run):
    """All of ``metrics.csv`` but for a clock."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "tsne/seconds"} for row in csv.DictReader(file)]


def assert_same_run(one, other):
    assert differences(checkpoints(one), checkpoints(other)) == []
    assert rows(one) == rows(other)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    for key in ("test_error", "validation_error", "routing", "epochs", "skipped_steps"):
        assert summaries[0][key] == summaries[1][key]


def test_two_processes_make_one_run_folder(unbroken):
    assert sorted(path.name for path in unbroken.iterdir()) == [
        *(".metrics.csv.sha256", "checkpoints", "config.yaml", "figures", "metrics.csv", "report.html", "summary.json")
    ]
    steps = [row["step"] for row in rows(unbroken) if row["train/loss/head"]]
    assert steps == ["2", "4", "7", "9"]
    assert [row["step"] for row in rows(unbroken) if row["train/accuracy"]] == ["4", "9"]
    pictures = sorted(path.stem for path in (unbroken / "figures").glob("*.png"))
    assert pictures == ["confusion", "error_rates", "errors", "feature_maps", "losses", "routing", "tsne"]


def test_a_run_stopped_by_a_signal_to_one_process_is_resumed_exactly(unbroken, ranks, tmp_path):
    run = tmp_path / "run"
    assert ranks(cli, ["fit", *QUICK, "--trainer.devices=2", f"--run={run}", "stop"]) == [143, 0]
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert ranks(cli, ["fit", f"--resume={run}"]) == [0, 0]
    assert_same_run(run, unbroken)


def test_processes_that_others_started_need_a_name_for_the_run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["fit", *QUICK]) == 1
    assert "torchrun or SLURM started cannot agree; name the run folder with --run" in capsys.readouterr().err


def test_strategies_that_lose_the_results_are_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *QUICK, "--trainer.strategy=ddp_spawn"]) == 1
    assert "strategy='ddp_spawn' leaves the process" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """Two nodes on the loopback, which train while the kills go on."""
    from ranks import free_port

    folder, port = tmp_path_factory.mktemp("torchrun"), free_port()
    environment = os.environ | dict(OMP_NUM_THREADS="1", WANDB_MODE="disabled", GLOO_SOCKET_IFNAME="lo")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    # without the two dashes torchrun takes --run for its own --run-path
    script = [
        "-m",
        "--",
        "primenet_lightning.commands.main",
        "fit",
        *QUICK,
        "--trainer.num_nodes=2",
        "--trainer.devices=1",
    ]
    nodes = []
    for rank in range(2):
        with (folder / f"{rank}.log").open("w") as log:
            arguments = [*command, f"--node-rank={rank}", *script, f"--run={folder / 'run'}"]
            nodes.append(subprocess.Popen(arguments, cwd=folder, env=environment, stdout=log, stderr=log))
    yield nodes, folder
    for node in nodes:
        node.kill()


@pytest.mark.usefixtures("torchrun")
def test_three_kills_leave_no_trace(monkeypatch, tmp_path):
    """The script of the benchmark, on a smaller run."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import kills

    options = [*QUICK[:3], "--figures=false", "--trainer.max_epochs=3", "--model.channels=4", "--model.head_channels=8"]
    found = kills.experiment(tmp_path, kills=3, every=5, seed=1, options=options)
    assert found["wrong"] == []
    assert found["kills"] == 3
    assert found["runs"] >= 1
    assert found["oldest"] <= 5


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's loopback is tried on Linux")
def test_torchrun_on_two_nodes_trains_the_same(unbroken, torchrun):
    nodes, folder = torchrun
    assert [node.wait(timeout=150) for node in nodes] == [0, 0], (folder / "0.log").read_text()[-2000:]
    assert_same_run(folder / "run", unbroken)
