from types import SimpleNamespace

import pytest
import torch

from primenet_lightning.datamodules import DigitsDataModule
from primenet_lightning.datamodules.attached import batches_done_by, ranks_of
from primenet_lightning.datamodules.features import FeatureDataModule, SplitFeatures


def stand_in(device="cpu", **kwargs):
    """A Trainer on a device that is not at hand."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(strategy=strategy, world_size=4, global_rank=3, **kwargs)


def test_batches_are_shared_out_among_all_processes_unless_the_trainer_says_otherwise():
    assert ranks_of(stand_in()) == (4, 3)
    in_a_pipeline = stand_in(distributed_sampler_kwargs={"num_replicas": 2, "rank": 1})
    assert ranks_of(in_a_pipeline) == (2, 1)


@pytest.mark.parametrize(("ready", "done"), [(0, 0), (7, 7), (8, 0)])
def test_when_the_epoch_is_over_no_batch_is_done(ready, done):
    progress = SimpleNamespace(current=SimpleNamespace(ready=ready))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    assert batches_done_by(stand_in(fit_loop=loop, num_training_batches=8)) == done


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("mps", False), ("cuda", True)])
def test_batches_for_a_gpu_lie_in_page_locked_memory(device, pinned):
    data = DigitsDataModule()
    data.setup("fit")
    split = SplitFeatures(torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))
    features = FeatureDataModule({"train": split, "validation": split, "test": split})
    for module in (data, features):
        module.trainer = stand_in(device)
        for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
            assert loader.pin_memory is pinned
            assert loader.device is None


def test_training_batches_are_copied_ahead_to_a_gpu_alone():
    data = DigitsDataModule()
    data.setup("fit")
    data.copies_ahead = True
    data.trainer = stand_in("cpu")
    assert data.train_dataloader().device is None
    data.trainer = stand_in("cuda:1")
    assert data.train_dataloader().device == torch.device("cuda:1")
    assert data.val_dataloader().device is None
