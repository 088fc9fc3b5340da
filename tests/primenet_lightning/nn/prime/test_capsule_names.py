import re

import pytest
from tiny import TinyData, make_model, make_trainer
from torch import nn

from primenet_lightning import Capsule, PrimeBlock, PrimeNet


@pytest.mark.parametrize("name", ["3x3/5x5", "a/b/c", "_hidden", "$x$", "with blanks", "\u732b", "7"])
def test_capsules_of_any_readable_name_are_logged_in_training_and_validation(name, tmp_path):
    class Named(PrimeNet):
        def configure_capsules(self, index, in_shape):
            first, *_ = super().configure_capsules(index, in_shape).values()
            return {name: first}

    model = make_model(Named)
    trainer = make_trainer(tmp_path)
    trainer.fit(model, TinyData(batch_size=20))
    logged = {path for path in trainer.callback_metrics if path.endswith(f"/block0.{name}")}
    kinds = ("accuracy", "error", "loss")
    assert logged == {f"{split}/{kind}/block0.{name}" for split in ("train", "val") for kind in kinds}


REFUSED = ["", " ", "a.b", ".", "head", "total", "keys", "training", "in_order", "_order", "a\nb", 3]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_work_is_refused(name):
    capsule = Capsule(nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(256, 3)))
    with pytest.raises(ValueError, match=f"^capsules has one named {re.escape(repr(name))}"):
        PrimeBlock((1, 8, 8), {name: capsule}, None)
