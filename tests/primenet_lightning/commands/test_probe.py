import json
import shutil

import pytest
import torch
from PIL import Image

from primenet_lightning.analysis.features import extract_features, feature_extractor
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.analysis.probe import fit_probe
from primenet_lightning.commands.main import main
from primenet_lightning.commands.probe import load_data
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.runs.folder import RunFolder

QUICK = ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=4", "--trainer.max_epochs=1"]
QUICK += ["--trainer.enable_progress_bar=false", "--figures=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run whose seed is not the default."""
    run = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert main(["fit", *QUICK, "--seed_everything=3", "--data.limit_train=300", f"--run={run}"]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy that a test may write into."""
    return shutil.copytree(trained, tmp_path / "run")


def probe(run, *options):
    return main(["probe", str(run), "--accelerator=cpu", "--epochs=2", *options])


def test_result_is_that_of_the_runs_own_data_and_network(run, capsys):
    assert probe(run) == 0
    found = json.loads((run / "probe.json").read_text())
    data = DigitsDataModule(seed=3, limit_train=300)
    splits = extract_features(feature_extractor(load_model(run)), data)
    expected = fit_probe(splits, 10, epochs=2, seed=3)
    summary = json.loads((run / "summary.json").read_text())
    assert found["phase1_test_error"] == summary["test_error"]
    assert (found["dataset"], found["layer"], found["seed"], found["epochs"]) == ("digits", "head", 3, 2)
    for name in ("test_error", "validation_error", "train_accuracy", "validation_accuracy", "logistic_test_error"):
        assert found[name] == pytest.approx(getattr(expected, name), abs=1e-4)
    printed = capsys.readouterr().out
    for number in (summary["test_error"], found["test_error"], found["logistic_test_error"]):
        assert f"{number:.2f}" in printed
    darkest, brightest = Image.open(run / "figures/probe.png").convert("L").getextrema()
    assert darkest < 64 < brightest


def test_layers_and_fine_tuning_have_files_of_their_own(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert probe(run, "--layer=routed", "--logistic=false", "--seed=5") == 0
    assert probe(run, "--layer=capsules", "--finetune=true", "--epochs=1") == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    new = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    new -= {path.relative_to(run).as_posix() for path in before}
    names = ("probe-routed", "probe-capsules-finetune")
    assert new == {f"{name}.json" for name in names} | {f"figures/{name}.png" for name in names}
    routed, tuned = (json.loads((run / f"{name}.json").read_text()) for name in names)
    assert (routed["seed"], routed["logistic_test_error"], routed["finetune"]) == (5, None, False)
    assert (len(tuned["train_loss"]), tuned["finetune"], tuned["num_features"]) == (1, True, 3 * 32 * 16)
    assert probe(run, "--layer=routed", "--logistic=false", "--epochs=1") == 0  # replaces its own
    assert len(json.loads((run / "probe-routed.json").read_text())["train_loss"]) == 1


def test_data_are_split_as_in_the_run(trained):
    data = load_data(RunFolder(trained))
    expected = DigitsDataModule(seed=3, limit_train=300)
    expected.setup()
    for name in ("train_dataset", "validation_dataset"):
        assert torch.equal(getattr(data, name).indices, getattr(expected, name).indices)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layer=hed"], "layer='hed' is unknown; use one of ('head', 'routed', 'capsules')"),
        (["--epochs=0"], "epochs=0 must be at least 1"),
        (["--batch_size=0"], "batch_size=0 must be at least 1"),
        (["--seed=-1"], "seed=-1 is out of range"),
    ],
)
def test_bad_options_make_one_sentence_and_no_file(trained, options, sentence, capsys):
    assert probe(trained, *options) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"primenet: error: {sentence}")
    assert not list(trained.glob("probe*"))


def test_runs_that_cannot_be_probed(run, capsys):
    checkpoint = run / "checkpoints/best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"]["network.head.features.2.bias"].fill_(torch.nan)
    torch.save(saved, checkpoint)
    assert probe(run) == 1
    checkpoint.unlink()
    assert probe(run) == 1
    assert probe(run / "none") == 1
    nan, missing, none = (line for line in capsys.readouterr().err.splitlines() if "primenet: error" in line)
    assert "the train features are not finite" in nan
    assert "best.ckpt does not exist" in missing
    assert "is no run folder" in none
    assert not list(run.glob("probe*"))
