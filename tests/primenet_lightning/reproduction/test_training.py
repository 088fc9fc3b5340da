import pytest

from primenet_lightning import PrimeNet
from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.reproduction.training import Notes, seed_all, train


def run(folder, stop_after=None):
    seed_all(0)
    data = DigitsDataModule(limit_train=300, batch_size=100)
    data.setup("fit")
    model = PrimeNet(1, (8, 8), 10, reduce_channels=2, channels=4, projection_channels=2, head_channels=8)

    def after(epoch, seconds):
        if epoch == stop_after:
            raise RuntimeError("power cut")

    notes = Notes(after)
    return train(model, data, 3, folder, notes, accelerator="cpu"), notes


def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path):
    errors, notes = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", stop_after=2)  # before the second epoch's checkpoint: it is done again
    again, others = run(tmp_path / "cut")
    assert again == errors
    assert others.curves == notes.curves
    assert others.losses == notes.losses
    assert [len(curve) for curve in notes.curves.values()] == [3, 3, 3]
    assert len(notes.routes) == 9
    assert errors[1] == pytest.approx(100 - max(notes.curves["validation_accuracy"]))
