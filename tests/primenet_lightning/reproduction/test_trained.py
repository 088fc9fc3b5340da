import pytest
from lightning.pytorch import seed_everything

from primenet_lightning.reproduction._plan import plan
from primenet_lightning.reproduction._results import Settings
from primenet_lightning.reproduction._trained import train
from primenet_lightning.reproduction._workplace import Folder, Workplace


def run(folder, stop_after=None):
    settings = Settings("digits", "quick", "compact", 1, 3, 1, 100, 32, "32-true", images=300)
    place = Workplace(Folder(folder), settings, accelerator="cpu")
    seed_everything(0, verbose=False)

    def after(epoch, seconds):
        if epoch == stop_after:
            raise RuntimeError("power cut")

    (part,) = plan(["prime"])
    result, _ = train(part, 0, place, after)
    return result


def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", stop_after=2)  # before the second epoch's checkpoint: it is done again
    again = run(tmp_path / "cut")
    assert (again.test_error, again.validation_error) == (whole.test_error, whole.validation_error)
    assert again.curves == whole.curves
    assert again.extra == whole.extra  # the losses, and where it was routed, among them
    assert [len(curve) for curve in whole.curves.values()] == [3, 3, 3]
    assert len(whole.extra["losses"]["step"]) == 9
    assert whole.validation_error == pytest.approx(100 - max(whole.curves["validation_accuracy"]))
