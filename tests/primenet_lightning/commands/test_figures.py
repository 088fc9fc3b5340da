"""What a run draws and says where all maps go on, and nothing is routed."""

import json

import pytest

from primenet_lightning.commands.main import main

SMALL = ("channels=4", "reduce_channels=2", "projection_channels=4", "head_channels=8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a network that concatenates, its figures as SVG."""
    path = tmp_path_factory.mktemp("figures") / "run"
    options = [f"--run={path}", "--figure_format=svg", "--model.router=concatenate"]
    options += [f"--model.{option}" for option in SMALL]
    options += ["--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert main(["fit", *options]) == 0
    return path


def test_all_figures_are_of_the_kind_asked_for(run):
    names = ["confusion", "error_rates", "errors", "feature_maps", "losses", "routing", "tsne"]
    assert sorted(path.stem for path in run.glob("figures/*.svg")) == names
    assert not [*run.glob("figures/*.png")]
    assert (run / "report.html").read_text().count("data:image/svg+xml") == len(names)


def test_shares_are_those_of_least_loss_and_carry_names(run):
    summary = json.loads((run / "summary.json").read_text())
    assert "routing" not in summary
    assert list(summary["least_loss"]) == ["block0.k3", "block0.k5", "block0.k7"]
    assert sum(summary["least_loss"].values()) == pytest.approx(1)


def test_nothing_is_called_routed(run):
    logged = (run / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert "routing/least_loss/block0.k3" in logged
    assert not [name for name in logged if name.startswith(("routing/share", "routing/switches"))]
    page = (run / "report.html").read_text().partition("<body>")[2].partition("config.yaml")[0]
    assert page.count("routed") == page.count("no batch is routed") == 1
