import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import CapsuleLossCurves


@pytest.fixture
def train(silent, make_batches, loader):
    """Fit a small network on eight batches; keyword arguments go to the Trainer."""

    def fit(model=None, ckpt_path=None, validate=True, **options):
        torch.manual_seed(0)
        trainer = Trainer(**(silent | options))
        model = model or PrimeNet(num_classes=3)
        batches = loader(make_batches())
        trainer.fit(model, batches, loader(make_batches(2, seed=1)) if validate else None, ckpt_path=ckpt_path)
        return trainer

    return fit


def test_picture_is_drawn_without_a_logger(train, tmp_path):
    train(callbacks=[CapsuleLossCurves()])
    with Image.open(tmp_path / "figures/losses.png") as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}
    assert picture.size == (800, 360)
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)} <= colours  # a curve a capsule


def test_errors_are_drawn_beside_the_losses(train, tmp_path):
    train(callbacks=[CapsuleLossCurves()], max_epochs=2)
    with Image.open(tmp_path / "figures/error_rates.png") as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(10**6)}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)} <= colours


def test_a_disk_that_is_full_stops_no_training(train, tmp_path, recwarn):
    """A file stands where the folder of the figures would be made."""
    (tmp_path / "figures").write_text("in the way")
    assert train(callbacks=[CapsuleLossCurves()]).state.finished
    sentences = [str(warning.message) for warning in recwarn if "training goes on without" in str(warning.message)]
    assert any("losses.png cannot be written (File exists); give a place" in sentence for sentence in sentences)


def test_picture_goes_where_it_is_told(train, tmp_path):
    train(callbacks=[CapsuleLossCurves(tmp_path / "mine")], validate=False)
    assert (tmp_path / "mine/figures/losses.png").is_file()
    assert not (tmp_path / "figures").exists()


def test_fast_dev_run_draws_nothing(train, tmp_path):
    train(callbacks=[CapsuleLossCurves()], fast_dev_run=True)
    assert list(tmp_path.iterdir()) == []
