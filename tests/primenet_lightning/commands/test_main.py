import csv
import json
import re
import signal
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.commands.main import main
from primenet_lightning.commands.resumption import with_run_config
from primenet_lightning.commands.wandb_process import wandb_mode
from primenet_lightning.datamodules import DigitsDataModule

QUICK = [
    "--trainer.accelerator=cpu",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_progress_bar=false",
    "--figures=false",
    "--model.capsule_optimizer.lr=1e-3",
    "--model.capsule_scheduler={class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 1}}",
]
HELPERS = '''
import signal
from lightning.pytorch import Callback
from primenet_lightning import PrimeNet

class CtrlC(Callback):
    """Presses Ctrl-C in the middle of the step after so many."""
    def __init__(self, steps: int): self.steps = steps
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.steps:
            signal.raise_signal(signal.SIGINT)

class OneScale(PrimeNet):
    def configure_capsules(self, index, in_shape):
        return {"only": super().configure_capsules(index, in_shape)["k5"]}
'''


def quietly(function, *args, **kwargs):
    """Without W&B, in fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, with some classes of the user's own in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_classes", raising=False)
    (tmp_path / "my_classes.py").write_text(HELPERS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of three epochs of four batches."""
    run = tmp_path_factory.mktemp("finished") / "run"
    begun = time.monotonic()
    assert quietly(main, ["fit", *QUICK, "--trainer.max_epochs=3", f"--run={run}"]) == 0
    (run.parent / "wall").write_text(str(time.monotonic() - begun))
    return run


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows(run):
    """The loss points of ``metrics.csv`` as numbers."""
    with (run / "metrics.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["train/loss/head"]]
    return [tuple(float(row[name]) for name in ("step", "train/loss/head", "train/loss/total")) for row in found]


def metrics(run):
    """All of ``metrics.csv``: no row may be missing or there twice."""
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- a run and its folder


def test_run_folder_holds_the_run(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        ".metrics.csv.sha256",
        "checkpoints",
        "config.yaml",
        "figures",
        "metrics.csv",
        "report.html",
        "summary.json",
    ]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert [step for step, *_ in rows(finished)] == [3, 7, 11]
    darkest, brightest = Image.open(finished / "figures/losses.png").convert("L").getextrema()
    assert darkest < 64 < brightest


def test_summary_has_exactly_its_keys_and_true_numbers(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary) == [
        *(
            "model",
            "dataset",
            "seed",
            "test_images",
            "test_error",
            "validation_error",
            "parameters",
            "multiply_adds_inference",
        ),
        *(
            "multiply_adds_training",
            "epochs",
            "skipped_steps",
            "seconds",
            "images_per_second",
            "peak_memory_bytes",
            "routing",
        ),
        *("routing_mode", "versions", "git_commit", "sha256"),
    ]
    assert (summary["dataset"], summary["seed"], summary["epochs"]) == ("digits", 0, 3)
    model = PrimeNet.load_from_checkpoint(finished / "checkpoints/best.ckpt", weights_only=True)
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["images_per_second"] * summary["seconds"] == pytest.approx(3 * 4 * 64)
    last = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)
    within = last["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert within <= summary["seconds"] < float((finished.parent / "wall").read_text())
    assert summary["seconds"] < 1.5 * within  # neither the test nor the state it loads counts
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]
    assert sum(summary["routing"].values()) == pytest.approx(1)
    data = DigitsDataModule()
    data.setup()
    images, labels = data.test_dataset[torch.arange(359)]
    with torch.no_grad():
        wrong = model.eval()(data.normalize(images)).argmax(1) != labels
    assert summary["test_error"] == pytest.approx(100 * wrong.float().mean().item(), abs=1e-3)


def test_validation_error_is_the_least(finished):
    with (finished / "metrics.csv").open(newline="") as file:
        errors = [float(row["val/error"]) for row in csv.DictReader(file) if row["val/error"]]
    assert len(errors) == 3
    assert json.loads((finished / "summary.json").read_text())["validation_error"] == round(min(errors), 4)


@pytest.mark.usefixtures("undrawn")
def test_config_repeats_the_run_bit_for_bit(finished, tmp_path):
    again = tmp_path / "again"
    assert main(["fit", f"--config={finished / 'config.yaml'}", f"--run={again}"]) == 0
    assert same_weights(finished / "checkpoints/best.ckpt", again / "checkpoints/best.ckpt")
    assert rows(again) == rows(finished)
    assert (again / "config.yaml").read_text() == (finished / "config.yaml").read_text()


def test_options_reach_the_optimizers(finished):
    groups = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    rates = {group["name"]: group["lr"] for group in groups["param_groups"]}
    assert rates["block0.k3"] == pytest.approx(1e-6)  # 1e-3, three epochs of StepLR with its gamma of 0.1
    assert rates["head"] == pytest.approx(2e-4)


# -- other options of the Trainer


def test_fast_dev_run_leaves_nothing():
    assert main(["fit", *QUICK, "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=true"]) == 0
    assert not Path("runs").exists()


def test_own_logger_and_progress_bar_and_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    run = Path("a-long-name-" * 6)
    own = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.max_time=00:01:00:00"]
    bar = ["--trainer.enable_progress_bar=true", "--trainer.callbacks+=TQDMProgressBar"]
    assert main(["fit", *QUICK, *own, *bar, "--trainer.max_epochs=1", f"--run={run}"]) == 0
    assert "train/loss/head" in Path("logs/lightning_logs/version_0/metrics.csv").read_text()
    assert (run / "figures/losses.png").is_file()
    assert not (run / "metrics.csv").exists()
    printed, errors = capsys.readouterr()
    assert printed.splitlines()[-1] == f"run folder: {run}"
    assert "test error (%)" in printed
    for false_alarm in ("exists and is not empty", "logging interval", "LeafSpec"):
        assert false_alarm not in errors


@pytest.mark.usefixtures("undrawn")
def test_without_checkpoints_there_is_no_test(capsys):
    options = ["--trainer.enable_checkpointing=false", "--trainer.max_epochs=1", "--run=mine"]
    assert main(["fit", *QUICK, *options]) == 0
    assert not Path("mine/checkpoints").exists()
    assert not Path("mine/summary.json").exists()
    *_, reason, folder = capsys.readouterr().out.splitlines()
    assert reason.startswith("No test and no summary.json: no best checkpoint was chosen")
    assert folder == "run folder: mine"


@pytest.mark.usefixtures("undrawn")
def test_no_time_makes_no_result_in_a_folder_of_data_and_size():
    options = ["--trainer.max_time=00:00:00:00", "--trainer.max_epochs=3", "--trainer.logger=false"]
    assert main(["fit", *QUICK, *options]) == 0
    (run,) = Path("runs").iterdir()
    assert re.fullmatch(r"digits-compact-\d{8}-\d{6}", run.name)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


# -- subclasses


@pytest.mark.usefixtures("undrawn")
def test_subclass_by_class_path_trains_loads_and_predicts(capsys):
    options = ["--model=my_classes.OneScale", "--trainer.max_epochs=1", "--run=mine"]
    assert main(["fit", *QUICK[:-2], *options]) == 0
    model = load_model("mine")
    assert type(model).__name__ == "OneScale"
    assert model.network.capsule_names == [["block0.only"]]
    Image.new("L", (8, 8), 200).save("image.png")
    capsys.readouterr()
    assert main(["predict", "--ckpt=mine", "image.png"]) == 0
    assert re.fullmatch(r"image\.png\t\d\t[01]\.\d{4}\n", capsys.readouterr().out)


# -- resuming


@pytest.mark.usefixtures("undrawn")
def test_resumed_run_equals_the_uninterrupted_one(finished):
    assert main(["fit", *QUICK, "--trainer.max_epochs=2", "--run=mine"]) == 0
    first = torch.load("mine/checkpoints/last.ckpt", weights_only=True)["callbacks"]["Timer"]
    assert main(["fit", "--resume=mine", "--trainer.max_epochs=3"]) == 0
    run = Path("mine")
    for name in ("best.ckpt", "last.ckpt"):
        assert same_weights(run / "checkpoints" / name, finished / "checkpoints" / name)
    assert rows(run) == rows(finished)
    summary = json.loads((run / "summary.json").read_text())
    expected = json.loads((finished / "summary.json").read_text())
    for key in ("test_error", "validation_error", "routing", "epochs"):
        assert summary[key] == expected[key]
    assert summary["seconds"] > first["time_elapsed"]["train"]
    assert summary["images_per_second"] * summary["seconds"] == pytest.approx(3 * 4 * 64)
    assert curves(run) == curves(finished)
    with (run / "metrics.csv").open(newline="") as file:
        tests = [row["step"] for row in csv.DictReader(file) if row["test/error"]]
    assert tests == ["12"]  # the first part's, of step 8, is done again
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def curves(run):
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["CapsuleLossCurves"]
    return saved["train"], saved["validation"]


def test_finished_run_says_what_to_raise(finished, capsys):
    before = (finished / "checkpoints/last.ckpt").stat().st_mtime_ns
    assert main(["fit", f"--resume={finished}"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"primenet: error: resume={finished} is finished: max_epochs=3 is reached; to train on, raise "
        "--trainer.max_epochs above 3"
    )
    assert (finished / "checkpoints/last.ckpt").stat().st_mtime_ns == before


def test_ctrl_c_in_an_epoch_and_resuming_is_exact(finished, capsys):
    handler = signal.getsignal(signal.SIGINT)
    stop = ["--trainer.callbacks+=my_classes.CtrlC", "--trainer.callbacks.steps=5"]
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, *stop, "--trainer.max_epochs=3", "--run=mine"])
    assert signal.getsignal(signal.SIGINT) is handler
    errors = capsys.readouterr().err
    assert "Stopped after 6 steps; go on with: primenet fit --resume mine" in errors
    assert "Traceback" not in errors
    run = Path("mine")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert (run / "figures/losses.png").is_file()
    assert main(["fit", "--resume=mine"]) == 0
    assert same_weights(run / "checkpoints/last.ckpt", finished / "checkpoints/last.ckpt")
    assert metrics(run) == metrics(finished)


# -- what is wrong is said in a sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data.batch_size=0"], "batch_size=0 must be at least 1 image"),
        (["--model.depth=0"], "depth=0 must be at least 1 block"),
        (["--trainer.gradient_clip_val=1"], "Trainer(gradient_clip_val=1) would clip all learners together"),
        (["--model.inference_routing=oracle"], "inference_routing='oracle' routes by the labels under test"),
        (["--data=MNISTDataModule", "--data.root=none", "--data.download=false"], "mnist is not complete"),
        (["--resume=none"], "none is no run folder: it has no config.yaml"),
        (
            ["--model.capsule_optimizer.lr=-1"],
            "the optimizer of 'block0.k3' cannot be made (Invalid learning rate: -1.0; PaperAdam was given",
        ),
    ],
)
def test_bad_options_make_one_sentence_and_no_folder(options, sentence, capsys):
    folder = [] if "--resume=none" in options else ["--run=mine"]
    assert main(["fit", "--trainer.accelerator=cpu", *options, *folder]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"primenet: error: {sentence}")
    assert [path.name for path in Path().iterdir()] == ["my_classes.py"]


def test_foreign_errors_keep_their_traceback_and_leave_no_folder(monkeypatch):
    def fail(layer):
        raise ValueError("a fault of torch")

    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", fail)
    with pytest.raises(ValueError, match="a fault of torch"):
        main(["fit", "--trainer.accelerator=cpu", "--run=mine"])
    assert not Path("mine").exists()


def test_existing_folder_is_not_overwritten(finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["fit", f"--run={finished}"]) == 1
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_nan_is_told_with_block_capsule_and_step(capsys):
    broken = [*QUICK[:5], "--model.capsule_optimizer.lr=.inf", "--run=mine"]
    assert main(["fit", *broken]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"primenet: error: the loss of block0\.k3 is nan at step 1, learning rate inf: ", last)


# -- validate and test


def test_test_and_validate_look_at_a_run_and_change_nothing(finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["test", f"--run={finished}"]) == 0
    shown = re.search(r"test/error\W+([\d.]+)", capsys.readouterr().out)
    summary = json.loads((finished / "summary.json").read_text())
    assert float(shown[1]) == pytest.approx(summary["test_error"])
    assert main(["validate", f"--run={finished}", "--model.inference_routing=oracle"]) == 0
    printed = capsys.readouterr().out
    assert "val/oracle/error" in printed
    assert "val/error" not in printed
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_test_without_a_run_says_what_to_name(capsys):
    assert main(["test"]) == 1
    assert "name its run folder with --run" in capsys.readouterr().err


def test_run_config_goes_before_the_users_options(finished):
    config = str(finished / "config.yaml")
    assert with_run_config(["fit", "--a=1"]) == ["fit", "--a=1"]
    assert with_run_config(["fit", f"--run={finished}"]) == ["fit", f"--run={finished}"]
    assert with_run_config(["fit", "--a=1", "--resume", str(finished)])[:3] == ["fit", "--config", config]
    given = with_run_config(["test", f"--run={finished}"])
    assert given == ["test", "--config", config, "--trainer.logger=false", f"--run={finished}"]
    assert with_run_config([]) == []


# -- predict


def test_predict_agrees_with_the_trainer_and_survives_bad_files(finished, capsys):
    data = DigitsDataModule()
    data.setup()
    images, _ = data.test_dataset[torch.arange(5)]
    folder = Path("images")
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index}.png")
    Path("broken.png").write_bytes(b"no image")
    Image.new("L", (9, 8)).save("wide.png")
    capsys.readouterr()
    files = ["missing.png", "images", "broken.png", "wide.png", "images/3.png"]
    assert main(["predict", f"--ckpt={finished}", *files]) == 1
    printed, errors = capsys.readouterr()

    model = PrimeNet.load_from_checkpoint(finished / "checkpoints/best.ckpt", weights_only=True)
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    (table,) = trainer.predict(model, datamodule=DigitsDataModule(predict_files="images"))
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[0] for line in lines] == [*(f"images/{index}.png" for index in range(5)), "images/3.png"]
    for (_, label, probability), row in zip(lines, [*table, table[3]], strict=True):
        assert int(label) == int(row.argmax())
        assert float(probability) == pytest.approx(row.max().item(), abs=6e-5)
    told = [line.partition(": ")[2] for line in errors.splitlines() if line.startswith("error: ")]
    assert [line.split()[0] for line in told] == ["missing.png", "broken.png", "wide.png"]
    assert "does not exist" in told[0]
    assert "9 pixels wide and 8 high" in told[2]


def test_predict_refuses_what_is_no_checkpoint(capsys):
    Path("x.ckpt").write_bytes(b"nothing")
    assert main(["predict", "--ckpt=x.ckpt", "a.png"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("primenet: error: ckpt=x.ckpt cannot be loaded (")


# -- W&B


def test_wandb_mode_is_what_the_user_says(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode() == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("wandb.login", lambda prompt: True)
    assert wandb_mode() == "online"
    monkeypatch.setattr("wandb.login", lambda prompt: False)
    assert wandb_mode() == "offline"


def wandb_records(path):
    """A LevelDB log: 32 KiB blocks of records with checksum, length and kind (whole, first, middle, last)."""
    content, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def wandb_series(records, key):
    found = []
    for record in records:
        items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        if key in items:
            found.append((items["trainer/global_step"], items[key]))
    return found


def written(path):
    """All records, once the process of W&B's own that writes them has come to the last."""
    deadline, records = time.monotonic() + 20, []
    while not any(record.HasField("exit") for record in records):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        records = list(wandb_records(path))
    return records


def test_offline_wandb_run_stopped_in_the_last_batch_of_an_epoch(finished, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    stop = ["--trainer.callbacks+=my_classes.CtrlC", "--trainer.callbacks.steps=7"]
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, *stop, "--trainer.max_epochs=3", "--run=mine"])
    run = Path("mine")
    assert "Stopped after 8 steps; go on with" in capsys.readouterr().err
    # the epoch was finished first
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    (first,) = run.glob("wandb/offline-run-*/*.wandb")
    assert main(["fit", "--resume=mine"]) == 0
    (second,) = (path for path in run.glob("wandb/offline-run-*/*.wandb") if path != first)
    assert second.name == first.name  # the same run to W&B
    assert same_weights(run / "checkpoints/last.ckpt", finished / "checkpoints/last.ckpt")

    series = [wandb_series(written(path), "train/loss/head") for path in (first, second)]
    assert [len(part) for part in series] == [2, 1]
    assert series[0] + series[1] == [(step, head) for step, head, _ in rows(finished)]
    definitions = {record.metric.name: record.metric for record in written(second) if record.HasField("metric")}
    assert definitions["val/error"].summary.min
    assert definitions["val/error"].step_metric == "trainer/global_step"
    (picture,) = second.parent.glob("files/media/images/figures/losses*.png")
    assert picture.read_bytes() == (run / "figures/losses.png").read_bytes()


# -- everything that looks, in a real offline run


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Two short epochs with all callbacks, and what W&B wrote of them."""
    run = tmp_path_factory.mktemp("seen") / "run"
    options = [option for option in QUICK if option != "--figures=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        assert main(["fit", *options, "--trainer.max_epochs=2", f"--run={run}"]) == 0
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    return run, path.parent / "files", list(written(path))


FIGURES = ("losses", "error_rates", "routing", "tsne", "feature_maps", "confusion", "errors")


def test_every_figure_is_in_the_run_folder_and_in_wandb(seen):
    run, files, _ = seen
    for name in FIGURES:
        (picture,) = files.glob(f"media/images/figures/{name}_*.png")
        assert picture.read_bytes() == (run / f"figures/{name}.png").read_bytes()
        with Image.open(picture) as image:
            assert len(image.convert("RGB").getcolors(10**6)) > 20
    assert (run / "report.html").read_text().count("<img") == len(FIGURES)


def test_wandb_has_the_tables(seen):
    run, files, _ = seen
    tables = {path.name.rsplit("_", 2)[0]: path for path in files.glob("media/table/tables/*.table.json")}
    assert {"tsne", "errors", "confusion", "routing", "summary"} <= tables.keys()
    table = json.loads(tables["tsne"].read_text())
    with (run / "figures/tsne.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(table["data"]) == len(rows) > 50
    column = table["columns"].index("x")
    assert [row[column] for row in table["data"]] == pytest.approx([float(row["x"]) for row in rows])
    summary = {row[0]: row[1] for row in json.loads(tables["summary"].read_text())["data"]}
    assert summary["test error (%)"] == f"{json.loads((run / 'summary.json').read_text())['test_error']:.2f}"


def test_wandbs_curves_are_those_of_the_csv(seen):
    run, _, records = seen
    names = ["train/loss/block0.k3", "train/epoch_loss/head", "val/error", "routing/share/block0.k5", "tsne/silhouette"]
    for name in names:
        expected = [(int(row["step"]), float(row[name])) for row in metrics(run) if row.get(name)]
        assert expected, name
        assert wandb_series(records, name) == [(step, pytest.approx(value)) for step, value in expected], name
    definitions = {record.metric.name: record.metric for record in records if record.HasField("metric")}
    assert definitions["val/loss/block0.k7"].summary.min
    assert definitions["val/accuracy"].summary.max
    assert {"digits", "compact"} <= {tag for record in records if record.HasField("run") for tag in record.run.tags}


@pytest.mark.parametrize(("broken", "sentence"), [("online", "it is kept in"), ("all", "without")])
def test_a_wandb_that_cannot_begin_stops_no_training(broken, sentence, monkeypatch, capsys):
    import wandb

    original, modes = wandb.init, []

    def init(*args, **kwargs):
        modes.append(kwargs["mode"])
        if broken in ("all", kwargs["mode"]):
            raise wandb.errors.CommError("Run initialization has timed out")
        return original(*args, **kwargs)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main(["fit", *QUICK, "--trainer.max_epochs=1", "--run=mine"]) == 0
    errors = capsys.readouterr().err
    assert "W&B cannot begin the run (Run initialization has timed out); " in errors
    assert sentence in errors
    assert modes == ["online", "offline"]
    assert len(list(Path("mine").glob("wandb/offline-run-*"))) == (broken == "online")
    assert Path("mine/summary.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_wandb_that_is_not_there_stops_no_training(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["fit", *QUICK, "--trainer.max_epochs=1", "--run=mine"]) == 0
    assert "W&B is not there" in capsys.readouterr().err
    assert Path("mine/metrics.csv").exists()
