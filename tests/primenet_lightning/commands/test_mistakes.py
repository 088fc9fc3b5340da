"""What users mistype: each is told in at most four lines that name the argument, the value, and what would do."""

from pathlib import Path

import pytest

from primenet_lightning.commands.main import main

REMEDIES = ("did you mean", "give ", "use ", "leave it out", "name ", "mend ", "go on ", "comes first")

MISTAKES = [
    # commands
    (["fti"], "command", "fti"),
    (["trian", "--run", "mine"], "command", "trian"),
    (["--config", "a.yaml", "fit"], "command", "--config"),
    # options
    (["fit", "--runn", "mine"], "--runn", "--run?"),
    (["fit", "--run"], "--run", "--run VALUE"),
    (["fit", "--trainer.max_epoch", "3"], "--trainer.max_epoch", "--trainer.max_epochs?"),
    (["fit", "--data.batchsize", "3"], "--data.batchsize", "--data.batch_size?"),
    (["fit", "--model.depht", "2"], "--model.depht", "--model.depth?"),
    (["fit", "--model.capsule_optimizer.lrr", "1"], "lrr", "--model.capsule_optimizer.lr?"),
    (["fit", "mine"], "argument", "mine"),
    (["fit", "--model.num_classes", "5"], "model.num_classes", "5"),
    (["validate", "--resume", "mine"], "--resume", "mine"),
    (["test", "--figures", "false"], "--figures", "false"),
    (["predict", "image.png"], "--ckpt RUN", "--model NAME"),
    (["report"], "report", "RUN"),
    (["report", "one", "two"], "argument", "two"),
    (["dashboard", "--entityy", "us"], "--entityy", "--entity?"),
    (["probe", "mine", "--epoch", "3"], "--epoch", "--epochs?"),
    (["reproduce"], "reproduce", "DATASET"),
    # values and types
    (["fit", "--data.batch_size", "three"], "--data.batch_size", "three"),
    (["fit", "--data.batch_size", "1.5"], "--data.batch_size", "1.5"),
    (["fit", "--data.seed", "-1"], "seed", "-1"),
    (["fit", "--seed_everything", "-1"], "seed_everything", "-1"),
    (["fit", "--figures", "maybe"], "--figures", "maybe"),
    (["fit", "--seed_everything", "x"], "--seed_everything", "x"),
    (["fit", "--trainer.max_epochs", "many"], "--trainer.max_epochs", "many"),
    (["fit", "--trainer.max_time", "soon"], "trainer.max_time", "soon"),
    (["fit", "--trainer.precision", "17"], "--trainer.precision", "17"),
    (["fit", "--trainer.accelerator", "gpuu"], "trainer.accelerator", "gpuu"),
    (["fit", "--trainer.strategy", "fsdpp"], "trainer.strategy", "fsdpp"),
    (["fit", "--trainer.max_epochs", "-2"], "trainer.max_epochs", "-2"),
    (["fit", "--trainer.accelerator", "cpu", "--trainer.devices", "two"], "trainer.devices", "two"),
    (["fit", "--trainer.model_registry", "mine"], "trainer.model_registry", "mine"),
    (["fit", "--trainer.barebones", "true"], "trainer.barebones", "True"),
    (["fit", "--model.size", "compactt"], "--model.size", "compact?"),
    (["fit", "--model.router", "leastloss"], "router", "leastloss"),
    (["fit", "--model.kernel_sizes", "3"], "--model.kernel_sizes", "3"),
    (["fit", "--model.capsule_optimizer.lr", "fast"], "--model.capsule_optimizer.lr", "fast"),
    (["probe", "mine", "--finetune", "maybe"], "--finetune", "maybe"),
    (["probe", "mine", "--epochs", "x"], "--epochs", "x"),
    (["reproduce", "mnistt"], "dataset", "mnistt"),
    (["reproduce", "digits", "--scale", "huge"], "--scale", "huge"),
    (["reproduce", "digits", "--parts", "[foo]"], "parts", "foo"),
    # classes
    (["fit", "--data", "mnsit"], "--data", "mnsit"),
    (["fit", "--data", "MNISTDataModul"], "--data", "MNISTDataModule?"),
    (["fit", "--data", "nosuch.Module"], "--data", "nosuch.Module"),
    (["fit", "--model", "resnet200"], "--model", "resnet200"),
    (["fit", "--model", "primenet_lightning.datamodules.DigitsDataModule"], "--model", "DigitsDataModule"),
    (["fit", "--model.capsule_optimizer", "AdamX"], "--model.capsule_optimizer", "AdamX"),
    (["fit", "--trainer.callbacks", "EarlyStoping"], "--trainer.callbacks", "EarlyStopping?"),
    # paths and files
    (["fit", "--config", "none.yaml"], "--config", "none.yaml"),
    (["fit", "--config", "broken.yaml"], "--config", "line 1"),
    (["fit", "--config", "depth.yaml"], "--model.depht", "--model.depth?"),
    (["fit", "--config", "epochs.yaml"], "--trainer.max_epochs", "many"),
    (["fit", "--config", "data.yaml"], "--data", "mnsit"),
    (["fit", "--config", "list.yaml"], "--model.init_args", "{name: value}"),
    (["fit", "--config", "nameless.yaml"], "--model=", "use one of"),
    (["fit", "--run", "data.yaml"], "run", "data.yaml"),
    (["fit", "--run", "/proc/none/mine"], "run", "/proc/none/mine"),
    (["fit", "--resume", "none"], "none", "run folder"),
    (["fit", "--ckpt_path", "none.ckpt"], "ckpt_path", "none.ckpt"),
    (["validate", "--run", "none"], "none", "run folder"),
    (["test"], "--run", "primenet test"),
    (["test", "--ckpt_path", "none.ckpt"], "ckpt_path", "none.ckpt"),
    (["predict", "--ckpt", "none", "image.png"], "ckpt", "none"),
    (["predict", "--ckpt", "data.yaml", "image.png"], "ckpt", "data.yaml"),
    (["report", "none"], "none", "run folder"),
    (["probe", "none"], "none", "run folder"),
]
"""The command line, and two things that must be told: mostly the argument and its value, or what was meant."""


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("model: [3")
    Path("depth.yaml").write_text("model: {class_path: primenet_lightning.PrimeNet, init_args: {depht: 2}}")
    Path("epochs.yaml").write_text("trainer: {max_epochs: many}")
    Path("list.yaml").write_text("model: {class_path: primenet_lightning.PrimeNet, init_args: [{depth: 2}]}")
    optimizer = "{class_path: torch.optim.SGD}"
    Path("nameless.yaml").write_text(f"model: {{class_path: '', init_args: {{capsule_optimizer: {optimizer}}}}}")
    Path("data.yaml").write_text("data: mnsit")


@pytest.mark.parametrize(("args", "argument", "value"), MISTAKES, ids=[" ".join(args) for args, *_ in MISTAKES])
def test_a_mistake_is_told_in_a_few_lines(args, argument, value, capsys):
    before = sorted(Path().rglob("*"))
    try:
        status = main(args)
    except SystemExit as end:
        status = end.code
    told = "".join(capsys.readouterr()).replace("Seed set to 0\n", "")
    assert status in (1, 2)
    assert len(told.splitlines()) <= 4
    assert "Traceback" not in told
    assert told.startswith("primenet: error: ")
    assert argument in told
    assert value in told
    assert any(remedy in told for remedy in REMEDIES), told
    assert sorted(Path().rglob("*")) == before
