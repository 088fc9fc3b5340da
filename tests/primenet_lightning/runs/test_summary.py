import io
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from primenet_lightning.runs import summary
from primenet_lightning.runs.summary import git_commit, result_table

SUMMARY = {
    "dataset": "mnist",
    "seed": 3,
    "test_error": 1.234,
    "validation_error": 2.0,
    "parameters": 123456,
    "multiply_adds_inference": 2034032,
    "epochs": 10,
    "seconds": 61.26,
    "routing_mode": "majority",
}


def printed(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    lines = [line for line in console.file.getvalue().splitlines() if "│" in line]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def test_table_puts_the_papers_claim_beside_the_measurement():
    claim = {"test_error": 0.58, "parameters": 410_000, "multiply_adds": 2_700_000, "epochs": 150}
    assert printed(result_table({**SUMMARY, "paper": claim})) == [
        ["test error (%)", "1.23", "0.58"],
        ["validation error (%)", "2.00", ""],
        ["parameters", "123,456", "410,000"],
        ["multiply-adds, inference", "2,034,032", "2,700,000"],
        ["epochs", "10", "150"],
        ["training time (s)", "61.3", ""],
    ]
    assert printed(result_table(SUMMARY))[0] == ["test error (%)", "1.23"]


def test_table_of_a_cut_backbone_says_what_its_local_classifiers_are_and_whether_gradients_cross():
    cut = {
        "model": "CutNet",
        "backbone": "resnet18",
        "local_share_parameters": 0.284,
        "local_share_multiply_adds": 0.111,
    }
    table = result_table({**SUMMARY, **cut, "strictly_local": False})
    rows = dict(printed(table))
    assert table.title == "CutNet of resnet18 on mnist, seed 3"
    assert rows["local classifiers' share of parameters"] == "28.4%"
    assert rows["local classifiers' share of multiply-adds"] == "11.1%"
    assert rows["strictly local"] == "no: gradients cross"


def test_git_commit_is_that_of_the_checkout_only(tmp_path, monkeypatch):
    here = Path(summary.__file__).resolve().parent
    head = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert git_commit() == head.stdout.strip()
    installed = tmp_path / "site-packages/summary.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(summary, "__file__", str(installed))
    assert git_commit() is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)  # somebody else's repository around it
    assert git_commit() is None


@pytest.mark.parametrize(
    ("shares", "caption"),
    [({"routing": {}}, "routed by concatenate"), ({"least_loss": {}}, "what a block hands on: concatenate")],
)
def test_a_table_says_routed_only_where_batches_are(shares, caption):
    assert result_table(SUMMARY | shares | {"routing_mode": "concatenate"}).caption == caption
