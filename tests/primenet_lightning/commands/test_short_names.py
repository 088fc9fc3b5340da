from importlib import import_module
from inspect import isabstract
from pathlib import Path

import pytest
import yaml

from primenet_lightning import baselines, datamodules
from primenet_lightning.commands.main import main
from primenet_lightning.commands.short_names import SHORT_NAMES, with_full_names
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.training.learner import LocalLearner


def class_of(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", SHORT_NAMES["model"])
def test_every_model_is_built_from_what_the_data_say(name):
    model = class_of(SHORT_NAMES["model"][name])(in_channels=1, image_size=(8, 8), num_classes=10)
    assert isinstance(model, LocalLearner)


WITHOUT = ("ImageClassifier", "DatasetsDataModule")
"""From which others derive; and which takes data sets, that no option can name."""


def test_every_data_module_and_baseline_of_the_package_has_a_short_name():
    named = {class_of(path) for names in SHORT_NAMES.values() for path in names.values()}
    for package, base in ((datamodules, ImageDataModule), (baselines, LocalLearner)):
        for name in package.__all__:
            kind = getattr(package, name)
            if isinstance(kind, type) and issubclass(kind, base) and kind not in named:
                assert isabstract(kind) or name in WITHOUT


def test_the_name_of_a_data_module_is_its_data_sets():
    for name, path in SHORT_NAMES["data"].items():
        assert class_of(path).name == name or path.endswith("FolderDataModule")  # which takes its folder's


MNIST, PRIME = SHORT_NAMES["data"]["mnist"], SHORT_NAMES["model"]["prime"]


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        (["--data", "mnist"], ["--data", MNIST]),
        (["--data=mnist", "--model=prime"], [f"--data={MNIST}", f"--model={PRIME}"]),
        (["--data.help", "mnist"], ["--data.help", MNIST]),
        (["--data.batch_size=3", "--run", "mnist"], ["--data.batch_size=3", "--run", "mnist"]),
        (["--data", "prime", "--model", "mnist"], ["--data", "prime", "--model", "mnist"]),
        (["--config", "other.yaml"], ["--config", "other.yaml"]),
    ],
)
def test_short_names_on_the_command_line(given, spelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mnist").write_text("a file of that name is no matter")
    Path("other.yaml").write_text(f"data: {{class_path: {MNIST}}}")
    assert with_full_names(["fit", *given]) == ["fit", *spelled]


@pytest.mark.parametrize(
    "content",
    [
        "{data: mnist, model: resnet20}",
        "{data: {class_path: mnist}, model: {class_path: resnet20}}",
    ],
)
def test_short_names_in_yaml(content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(content)
    for option in (["--config=mine.yaml"], ["-c", "mine.yaml"]):
        with pytest.raises(SystemExit) as end:
            main(["fit", *option, "--data.batch_size=50", "--print_config"])
        assert end.value.code == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["data"]["class_path"] == MNIST
        assert config["data"]["init_args"]["batch_size"] == 50
        assert config["model"]["class_path"] == SHORT_NAMES["model"]["resnet20"]
