"""A run stopped in the middle of an epoch goes on with another number of processes over the same remaining images."""

from itertools import chain

import pytest
import torch
from lightning.pytorch import Callback
from tiny import Plain, TinyData, distance, make_model, make_trainer, state

from primenet_lightning.callbacks import LastCheckpoint


class Images(Callback):
    """Which images made which batch, by the sum of their pixels."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        sums = ((batch[0].double() + 1) * 127.5).round().sum((1, 2, 3))
        self.batches.append([round(value) for value in sums.tolist()])


def fit(folder, devices, max_steps, ckpt_path=None):
    """Up to so many of the twelve steps of three epochs; the last checkpoint is left in the folder."""
    images, model = Images(), make_model(Plain, depth=2)
    options = dict(devices=devices, strategy="ddp") if devices > 1 else {}
    options |= dict(precision="64-true", max_epochs=3, max_steps=max_steps, enable_checkpointing=True)
    trainer = make_trainer(folder, [images, LastCheckpoint(folder / f"{devices}")], **options)
    trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    return images.batches, state(model)


@pytest.mark.parametrize(("before", "after", "step"), [(2, 1, 2), (2, 1, 5), (1, 2, 5)])
def test_another_number_of_processes_goes_on_over_the_same_images(before, after, step, ranks, tmp_path):
    def run(devices, *args):
        results = ranks(fit, tmp_path, devices, *args) if devices > 1 else [fit(tmp_path, devices, *args)]
        batches = [list(chain(*shares)) for shares in zip(*(batches for batches, _ in results), strict=True)]
        return batches, results[0][1]

    expected, whole = run(1, 12)
    first, _ = run(before, step)
    rest, gone_on = run(after, 12, tmp_path / f"{before}/last.ckpt")
    assert first + rest == expected
    assert distance(whole, gone_on) < 1e-9
    assert torch.equal(whole["history._extra_state"], gone_on["history._extra_state"])
