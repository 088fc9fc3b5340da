"""A run on all training images: nothing chooses among the weights, and the last ones are tested."""

import json

import pytest
import torch

from primenet_lightning.commands.main import main

OPTIONS = ["--data.validation_fraction", "0", "--trainer.limit_train_batches", "3", "--trainer.accelerator", "cpu"]


def saved(run, name):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_the_last_weights_are_tested_and_the_summary_says_so(tmp_path, capsys, undrawn):
    run = tmp_path / "run"
    assert main(["fit", "--run", str(run), "--trainer.max_epochs", "3", *OPTIONS]) == 0
    out = capsys.readouterr().out
    assert "tested: the last weights, after epoch 2; there are no validation images to choose by" in out
    best, last = saved(run, "best"), saved(run, "last")
    assert best["epoch"] == 2
    for name, value in last["state_dict"].items():
        assert torch.equal(value, best["state_dict"][name]), name
    summary = json.loads((run / "summary.json").read_text())
    assert summary["tested_weights"] == "last epoch"
    assert "validation_error" not in summary
    # the same by hand
    assert main(["test", "--run", str(run), "--trainer.accelerator", "cpu"]) == 0
    assert f"{summary['test_error']:.2f}"[:4] in capsys.readouterr().out


def test_such_a_run_goes_on_to_its_last_epoch(tmp_path, capsys, undrawn):
    run = tmp_path / "run"
    main(["fit", "--run", str(run), "--trainer.max_epochs", "1", *OPTIONS])
    assert main(["fit", "--resume", str(run), "--trainer.max_epochs", "2"]) == 0
    assert saved(run, "best")["epoch"] == 1


def test_who_stops_by_validation_is_refused(tmp_path, capsys, undrawn):
    stop = '[{"class_path": "EarlyStopping", "init_args": {"monitor": "val/error"}}]'
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="val/error"):
        main(["fit", "--run", str(run), "--trainer.callbacks", stop, "--trainer.max_epochs", "1", *OPTIONS])


def test_there_is_nothing_to_validate(tmp_path, capsys, undrawn):
    run = tmp_path / "run"
    main(["fit", "--run", str(run), "--trainer.max_epochs", "1", *OPTIONS])
    assert main(["validate", "--run", str(run), "--trainer.accelerator", "cpu"]) != 0
    assert "validation_fraction=0.0 leaves no validation images; test instead" in capsys.readouterr().err
