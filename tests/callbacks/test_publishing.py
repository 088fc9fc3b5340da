from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

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
