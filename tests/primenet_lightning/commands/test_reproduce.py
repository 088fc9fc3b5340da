import json
import shutil

import pytest

from primenet_lightning.commands import reproduce as command
from primenet_lightning.commands.main import main
from primenet_lightning.reproduction._carrying_out import carry_out, without_errors
from primenet_lightning.reproduction._plan import plan
from primenet_lightning.reproduction._workplace import Folder, Workplace, make_data

PARTS = "[prime,probe,one_scale_3,end_to_end_mean]"


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A reproduction of four parts with few images."""
    out = tmp_path_factory.mktemp("reproduction") / "out"
    options = ["--epochs=2", "--probe_epochs=2", "--images=200", f"--parts={PARTS}", "--accelerator=cpu"]
    args = ["reproduce", "digits", *options, f"--out={out}"]
    assert main(args) == 0
    return out, args


def test_results_pages_and_numbers_are_there(reproduced):
    out, _ = reproduced
    results = Folder(out).results()
    prime, probe, twin = (results.of(name)[0] for name in ("prime", "probe", "end_to_end_mean"))
    assert (prime.images, prime.all_images, prime.epochs, prime.test_images) == (200, False, 2, 359)
    assert prime.extra["routings"]["majority"] == pytest.approx(prime.test_error, abs=1e-3)
    assert sum(prime.extra["shares_all"].values()) == pytest.approx(1)
    assert prime.cost["multiply_adds_training"] > prime.cost["multiply_adds_inference"]
    assert twin.cost["activation_bytes"] > 0
    assert probe.extra["phase1_test_error"] == prime.test_error
    assert len(probe.curves["train_accuracy"]) == 2
    for name in ("report.html", "report.md", "results.json"):
        assert (out / name).stat().st_size > 1000
    assert json.loads((out / "results.json").read_text())


def test_what_is_finished_is_not_run_again_and_the_report_is_the_same_byte_for_byte(reproduced, monkeypatch, capsys):
    out, args = reproduced
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    monkeypatch.setattr("primenet_lightning.reproduction._carrying_out.train", None)  # which would be called
    assert main(args) == 0
    assert "4 of 4 parts are there; 0 to run" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_only_what_is_missing_is_run(reproduced, tmp_path, capsys):
    out, args = reproduced
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "parts" / "one_scale_3")
    assert main([*args[:-1], f"--out={copy}"]) == 0
    said = capsys.readouterr().out
    assert "3 of 4 parts are there; 1 to run" in said
    assert "one scale, 3x3, end to end, seed 0" in said
    # the same part, run anew, says the same
    again, first = (Folder(path).result("one_scale_3", 0) for path in (copy, out))
    assert (again.test_error, again.curves) == (first.test_error, first.curves)


def test_impossible_options_are_named(reproduced, tmp_path, capsys, monkeypatch):
    out, _ = reproduced
    monkeypatch.chdir(tmp_path)
    for options, sentence in (
        (["--epochs=0"], "epochs=0 is too small; give at least 1"),
        (["--parts=[primes]"], "parts='primes' is unknown"),
        (["--precision=foo"], "precision='foo' with accelerator='auto' cannot be had"),
        (["--epochs=7", "--images=200", f"--out={out}"], "holds part prime run with epochs=2, not 7"),
    ):
        assert main(["reproduce", "digits", *options]) == 1
        assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_large_networks_and_the_unfrozen_one_leave_what_the_tables_need(reproduced, tmp_path):
    out, args = reproduced
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    more = ["--heavy_epochs=1", "--heavy_images=100", "--parts=[sfp,multi_exit,probe_finetune]", f"--out={copy}"]
    # a setting that the parts there did not depend on may change
    assert main([*args[:4], "--images=200", "--accelerator=cpu", *more]) == 0
    results = Folder(copy).results()
    sfp, multi_exit, finetuned, frozen, prime = (
        results.of(name)[0] for name in ("sfp", "multi_exit", "probe_finetune", "probe", "prime")
    )
    assert sfp.images == multi_exit.images == 100
    assert sfp.extra["multiply_adds_pruned"] < sfp.cost["multiply_adds_inference"]
    costs = [row["multiply_adds"] for row in multi_exit.extra["exits"]]
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(multi_exit.cost["multiply_adds_inference"])
    # the network below the layer counts at inference, and in training where it learns
    layer = frozen.extra["features"] * 10
    assert frozen.cost["multiply_adds_training"] == 2 * layer
    assert frozen.cost["multiply_adds_inference"] == finetuned.cost["multiply_adds_inference"]
    # to find what its last layer sees, the head is run to its end
    assert frozen.cost["multiply_adds_inference"] == prime.cost["multiply_adds_inference"] + layer
    assert finetuned.cost["multiply_adds_training"] > finetuned.cost["multiply_adds_inference"]
    assert not list(copy.glob("parts/sfp/seed0/checkpoints"))


def test_a_part_stopped_after_its_training_is_not_trained_again(tmp_path, monkeypatch):
    args = ["digits", "--epochs=1", "--images=100", "--accelerator=cpu"]
    place = Workplace(Folder(tmp_path / "out"), command._settings_of(command._parse(args)), None, "cpu")
    place.folder.begin(place.settings)
    (part,) = plan(["end_to_end_mean"])
    with monkeypatch.context() as stopped:
        stopped.setattr("primenet_lightning.reproduction._trained.cost_of", None)  # called after the test
        with pytest.raises(TypeError):
            carry_out(part, 0, place)
    epochs = []
    found = carry_out(part, 0, place, lambda epoch, _: epochs.append(epoch))
    assert epochs == []
    assert len(found.curves["train_loss"]) == 1
    assert not list(place.folder.of(part.name, 0).glob("checkpoints"))


def test_phase_2_says_what_it_misses(reproduced, tmp_path, capsys):
    out, args = reproduced
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "parts" / "probe")
    (copy / "parts" / "prime" / "seed0" / "checkpoints" / "best.ckpt").unlink()
    assert main([*args[:-1], f"--out={copy}"]) == 1
    assert "best.ckpt is missing, which phase 2 takes; delete" in capsys.readouterr().err


def test_no_error_on_the_subset_of_svhn_passes_for_one_of_svhn(tmp_path, write_subset):
    root = write_subset(tmp_path)
    data = make_data("svhn", str(root), 0, 20, None)
    data.setup("fit")
    assert data.dataset_name == "svhn-subset"
    options = command._parse(["svhn", f"--root={root}", "--epochs=1", "--accelerator=cpu"])
    settings = command._settings_of(options)
    assert settings.dataset == "svhn-subset"
    assert settings.images is None
    place = Workplace(Folder(tmp_path / "out"), settings, str(root), "cpu")
    place.folder.begin(settings)
    found = carry_out(plan(["prime"])[0], 0, place)
    assert found.test_error is None
    assert "routings" not in found.extra
    assert "shares" in found.extra
    assert without_errors(found) == found


@pytest.fixture
def write_subset():
    import numpy as np
    from scipy.io import savemat

    def write(folder):
        generator = np.random.default_rng(0)
        (folder / "svhn-subset").mkdir()
        for split, count in (("train", 200), ("test", 20)):
            images = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
            labels = (np.arange(count) % 10 + 1)[:, None]
            savemat(folder / "svhn-subset" / f"{split}_32x32.mat", {"X": images, "y": labels})
        return folder

    return write
