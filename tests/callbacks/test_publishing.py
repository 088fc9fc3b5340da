import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from primenet_lightning.callbacks import (
    CapsuleLossCurves,
    ConfusionAndErrors,
    FeatureMaps,
    FeatureTSNE,
    RoutingMonitor,
)
from primenet_lightning.callbacks.publishing import publish, run_folder
from primenet_lightning.figures.style import new_figure


def test_run_folder_is_the_first_loggers_else_the_trainers(tmp_path):
    plain = Trainer(logger=False, default_root_dir=tmp_path, accelerator="cpu")
    assert run_folder(plain) == tmp_path
    logger = CSVLogger(tmp_path / "logs", name="a", version=3)
    assert run_folder(Trainer(logger=logger, accelerator="cpu")) == tmp_path / "logs/a/version_3"


def test_publish_saves_the_figure(tmp_path):
    figure = new_figure(2, 1)
    figure.subplots().plot([0, 1])
    path = publish(figure, "some", Trainer(logger=False, accelerator="cpu"), tmp_path)
    assert path == tmp_path / "figures/some.png"
    with Image.open(path) as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}
    assert picture.size == (200, 100)
    assert (0x1F, 0x77, 0xB4) in colours  # the line


@pytest.mark.parametrize(("figure_format", "files"), [("svg", ["some.svg"]), ("pdf", ["some.pdf", "some.png"])])
def test_a_figure_is_written_as_asked_for(figure_format, files, tmp_path):
    figure = new_figure(2, 2)
    figure.subplots().set_title("$5 of 10$")
    trainer = Trainer(logger=False, default_root_dir=tmp_path)
    path = publish(figure, "some", trainer, tmp_path, figure_format)
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == files
    before = path.read_bytes()
    assert before.startswith({"svg": b"<?xml", "pdf": b"%PDF"}[figure_format])
    if figure_format == "svg":
        publish(figure, "some", trainer, tmp_path, figure_format)
        assert path.read_bytes() == before


@pytest.mark.parametrize("kind", [CapsuleLossCurves, RoutingMonitor, FeatureTSNE, FeatureMaps, ConfusionAndErrors])
def test_another_kind_of_file_is_refused(kind):
    with pytest.raises(ValueError, match="figure_format='jpg' is unknown; use one of 'png', 'svg', 'pdf'"):
        kind(figure_format="jpg")
