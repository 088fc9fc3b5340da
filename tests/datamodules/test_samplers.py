from itertools import chain

import pytest
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from primenet_lightning.datamodules import EpochBatchSampler, OrderedBatchSampler


def global_batches(ranks, length=1000, batch_size=64, epoch=0, **kwargs):
    """The batches as all ranks together see them."""
    samplers = [EpochBatchSampler(length, batch_size, num_replicas=ranks, rank=r, **kwargs) for r in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [torch.cat(shares).tolist() for shares in zip(*samplers, strict=True)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_image_is_used_once_and_the_number_of_ranks_changes_no_batch(ranks):
    batches = global_batches(ranks, epoch=3)
    assert sorted(chain(*batches)) == list(range(1000))
    assert [len(batch) for batch in batches] == [64] * 15 + [40]
    assert batches == global_batches(1, epoch=3)


def test_order_depends_on_seed_and_epoch_only():
    torch.manual_seed(1)
    first = global_batches(1, seed=5, epoch=2)
    torch.manual_seed(2)
    assert global_batches(1, seed=5, epoch=2) == first
    others = [global_batches(1, seed=seed, epoch=epoch) for seed, epoch in [(5, 3), (6, 2), (2, 5), (6, 1)]]
    assert first not in others
    # the sum of seed and epoch is the same here, as it would be in torch's own sampler
    assert global_batches(1, seed=0, epoch=1) != global_batches(1, seed=1, epoch=0)


def test_a_sampler_gives_a_new_order_each_epoch_and_repeats_one_epoch():
    sampler = EpochBatchSampler(100, 10)
    first, again = (torch.cat(list(sampler)) for _ in range(2))
    sampler.set_epoch(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.cat(list(sampler)))


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize(
    ("length", "sizes"),
    [(20, [10, 10]), (21, [10, 11]), (24, [10, 14]), (25, [10, 15]), (26, [10, 10, 6]), (29, [10, 10, 9]), (7, [7])],
)
def test_last_batch_is_kept_above_half_a_batch_for_any_number_of_ranks(length, ranks, sizes):
    batches = global_batches(ranks, length, batch_size=10)
    assert [len(batch) for batch in batches] == sizes
    assert batches == global_batches(1, length, batch_size=10)
    assert sorted(chain(*batches)) == list(range(length))
    assert len(EpochBatchSampler(length, 10, num_replicas=ranks)) == len(sizes)


def test_start_batch_skips_once():
    sampler = EpochBatchSampler(50, 10, seed=3, start_batch=2)
    rest, whole = list(sampler), list(sampler)
    assert len(sampler) == len(whole) == 5
    assert torch.equal(torch.cat(rest), torch.cat(whole[2:]))


def test_ordered_batches_are_in_order_in_every_epoch():
    sampler = OrderedBatchSampler(26, 10)
    sampler.set_epoch(4)
    assert [batch.tolist() for batch in sampler] == [[*range(10)], [*range(10, 20)], [*range(20, 26)]]


def test_errors_name_the_argument_and_the_remedy():
    with pytest.raises(ValueError, match=r"batch_size=200 is the global batch.* 3 ranks; give 198 or 201"):
        EpochBatchSampler(1000, 200, num_replicas=3)
    with pytest.raises(ValueError, match=r"batch_size=0 must be at least 1 image"):
        EpochBatchSampler(10, 0)
    with pytest.raises(ValueError, match=r"3 images in batches of batch_size=4 leave 3 for the last batch.* 4 ranks"):
        EpochBatchSampler(3, 4, num_replicas=4)
    with pytest.raises(ValueError, match=r"11 images .* leave 3 for the last batch.* at least 8"):
        EpochBatchSampler(11, 4, num_replicas=4)
    with pytest.raises(ValueError, match="Invalid rank 2"):
        EpochBatchSampler(10, 4, num_replicas=2, rank=2)


@pytest.fixture
def prepare(make_trainer):
    """Lightning's own treatment of a loader in a run of two processes, with the default flag."""
    trainer = make_trainer(devices=2, strategy="ddp_spawn", use_distributed_sampler=True)
    return trainer._data_connector._prepare_dataloader


class Indices(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("sampler", [EpochBatchSampler(64, 8, num_replicas=2), OrderedBatchSampler(64, 8)])
@pytest.mark.parametrize("mode", [RunningStage.TRAINING, RunningStage.VALIDATING, RunningStage.TESTING])
def test_lightning_leaves_the_sampler_alone_on_two_processes(prepare, sampler, mode):
    loader = DataLoader(Indices(), sampler=sampler, batch_size=None)
    assert prepare(loader, shuffle=True, mode=mode) is loader


def test_lightning_does_replace_other_samplers(prepare):
    """Otherwise the test above would say nothing."""
    for sampler in (RandomSampler(Indices()), BatchSampler(RandomSampler(Indices()), 8, drop_last=False)):
        prepared = prepare(DataLoader(Indices(), sampler=sampler), shuffle=True, mode=RunningStage.TRAINING)
        assert isinstance(prepared.sampler, DistributedSampler | UnrepeatedDistributedSamplerWrapper)
        assert prepared.sampler is not sampler
