"""Checkpoints that do not fit are refused in a sentence, and nothing is overwritten."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies import DeepSpeedStrategy as DeepSpeed
from tiny import Plain, TinyData, make_model, make_trainer

from primenet_lightning import CutNet, PrimeNet
from primenet_lightning.commands.main import main
from primenet_lightning.training.refusals import refuse_strategy, refuse_synchronized_norms


class OtherNames(TinyData):
    class_names = ("x", "y", "z")


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def saved(tmp_path):
    trainer = make_trainer(tmp_path, limit_train_batches=2)
    trainer.fit(make_model(), TinyData(batch_size=20))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    return tmp_path / "it.ckpt"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (dict(channels=6), r"network.blocks.0.capsules.k3.features.1.weight has shape \(4, 2, 3, 3\) there and \(6, 2"),
        (
            dict(depth=2),
            r"network.blocks.0.projection_classifier.1.weight is in the model, but not in the checkpoint; build",
        ),
        (dict(kernel_sizes=(3, 5)), r"network.blocks.0.capsules.k7.\S+ is in the checkpoint, but not in the model"),
    ],
)
@pytest.mark.parametrize("function", ["fit", "test"])
def test_another_architecture(function, model, sentence, saved, tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="the checkpoint is of another architecture: " + sentence):
        getattr(trainer, function)(make_model(**model), TinyData(batch_size=20), ckpt_path=saved)


def test_another_architecture_may_be_wanted(saved, tmp_path):
    model = make_model(kernel_sizes=(3, 5))
    model.strict_loading = False
    make_trainer(tmp_path, max_epochs=2).fit(model, TinyData(batch_size=20))
    make_trainer(tmp_path).test(model, TinyData(batch_size=20), ckpt_path=saved, verbose=False)


def test_other_class_names(saved, tmp_path):
    with pytest.raises(
        ValueError, match=r"trained on tiny with the classes a, b, c, but tiny has x, y, z; use the data"
    ):
        make_trainer(tmp_path).fit(make_model(), OtherNames(batch_size=20), ckpt_path=saved)


@pytest.mark.parametrize("size", [0, 100, -1])
@pytest.mark.parametrize("function", ["fit", "test"])
def test_a_truncated_checkpoint(function, size, saved, tmp_path):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"checkpoint \S+it.ckpt cannot be read \(.*\): it is damaged or no checkpoint"
    ):
        getattr(make_trainer(tmp_path), function)(make_model(), TinyData(batch_size=20), ckpt_path=saved)


def test_a_file_that_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "it.ckpt")
    with pytest.raises(ValueError, match=r"it.ckpt is no checkpoint of a LightningModule: it has no state_dict"):
        make_trainer(tmp_path).fit(make_model(), TinyData(batch_size=20), ckpt_path=tmp_path / "it.ckpt")


def test_nothing_in_a_checkpoint_is_code(saved, tmp_path):
    """Only what torch itself calls harmless; what would be code is not even read."""
    loaded = torch.load(saved, weights_only=True)
    assert {"state_dict", "optimizer_states", "loops", "random_states", "train_counts"} <= loaded.keys()
    loaded["callbacks"]["evil"] = Plain
    torch.save(loaded, saved)
    with pytest.raises(ValueError, match=r"with weights_only=True \(Weights only load failed"):
        make_trainer(tmp_path).fit(make_model(), TinyData(batch_size=20), ckpt_path=saved)


# -- strategies


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeed])
def test_other_strategies_are_refused_at_setup(strategy, tmp_path):
    trainer, model = make_trainer(tmp_path), make_model()
    model.trainer = trainer
    trainer._accelerator_connector.strategy = object.__new__(strategy)  # their constructors want a GPU or a package
    with pytest.raises(ValueError, match=rf"strategy={strategy.__name__} splits up .* use Trainer\(strategy='ddp'\)"):
        model.setup("fit")


@pytest.mark.parametrize(
    ("option", "value"), [("ddp_comm_hook", lambda *_: None), ("model_averaging_period", 5), ("static_graph", True)]
)
def test_other_averages_of_ddp_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"DDPStrategy\({option}=...\) changes how DDP averages"):
        refuse_strategy(DDPStrategy(**{option: value}))


def test_synchronised_batch_norm_is_refused_where_a_weight_does_not_learn():
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True, logger=False)
    whitened = CutNet("whitened", 2, (8, 8), 3, backbone_options={"widths": [4, 4]})
    with pytest.raises(ValueError, match=r"sync_batchnorm=True cannot take over \S+, a ShiftNorm2d, .* leave"):
        refuse_synchronized_norms(trainer, whitened.network)
    refuse_synchronized_norms(trainer, make_model().network)


# -- the command

QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=3"]
QUICK += ["--figures=false", "--model.channels=4", "--trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert main(["fit", *QUICK, f"--run={path}"]) == 0
    return path


def damaged(run):
    path = run / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])


def other_names(run):
    path = run / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["data_description"]["class_names"] = ["cat", "dog"]
    torch.save(saved, path)


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (damaged, [], "last.ckpt cannot be read"),
        (other_names, [], "was trained on digits with the classes cat, dog, but digits has 0, 1, 2, ... (10)"),
        (None, ["--model.channels=5"], "of another architecture: network.blocks.0.capsules.k3"),
        (None, ["--seed_everything=1"], "the run that is resumed had seed=0, but now it is 1"),
        (None, ["--data.limit_train=500"], "the run that is resumed had training images=1294, but now it is 500"),
    ],
)
def test_resuming_from_what_does_not_fit_changes_nothing(change, options, sentence, run, tmp_path, capsys):
    copy = tmp_path / "copy"
    for path in run.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    if change is not None:
        change(copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(["fit", f"--resume={copy}", "--trainer.max_epochs=3", *options]) == 1
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_run_whose_test_was_not_done_is_only_tested(run, tmp_path, capsys):
    (run / "summary.json").rename(tmp_path / "summary.json")
    last = (run / "checkpoints/last.ckpt").read_bytes()
    assert main(["fit", f"--resume={run}"]) == 0
    assert (run / "checkpoints/last.ckpt").read_bytes() == last
    one, other = ((folder / "summary.json").read_text() for folder in (run, tmp_path))
    assert [line for line in one.splitlines() if "error" in line] == [x for x in other.splitlines() if "error" in x]
    assert main(["fit", f"--resume={run}"]) == 1
    assert "is finished" in capsys.readouterr().err


def test_a_run_killed_before_its_first_batch_begins_anew(run, tmp_path):
    path = tmp_path / "young"
    path.mkdir()
    (path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert main(["fit", f"--resume={path}"]) == 0
    one, other = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (run, path))
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


def test_a_requeued_job_goes_on_with_its_run(run, tmp_path, monkeypatch):
    path = tmp_path / "job"
    command = ["fit", *QUICK, f"--run={path}", "--every_n_train_steps=1"]
    original = PrimeNet._step_all

    def killed(self):
        if self.global_step == 4:
            raise ZeroDivisionError
        original(self)

    monkeypatch.setattr(PrimeNet, "_step_all", killed)
    with pytest.raises(ZeroDivisionError):
        main(command)
    monkeypatch.setattr(PrimeNet, "_step_all", original)
    assert main(command) == 1  # as it is, it overwrites nothing
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main(command) == 0
    one, other = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (run, path))
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


def test_a_diverging_run_leaves_its_last_good_checkpoint(tmp_path, capsys):
    """Its first step makes the weights infinite; the checkpoint that is then due is not written."""
    path = tmp_path / "run"
    options = ["--model.capsule_optimizer.lr=.inf", "--every_n_train_steps=1", f"--run={path}"]
    assert main(["fit", *QUICK, *options]) == 1
    assert "a parameter of block0.k3 is not finite at step 1, learning rate inf: " in capsys.readouterr().err
    saved = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 0
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
