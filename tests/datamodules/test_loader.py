import pytest
import torch

from primenet_lightning.datamodules import BatchLoader, EpochBatchSampler, ImageTensors


def test_a_loader_takes_up_where_another_stopped_and_then_starts_anew():
    dataset = ImageTensors(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), torch.arange(50))

    def loader(batches_done=0):
        made = BatchLoader(dataset, EpochBatchSampler(50, 8, seed=1), lambda: batches_done)
        made.sampler.set_epoch(3)
        return made

    whole = [labels.tolist() for _, labels in loader()]
    resumed = loader()
    resumed.load_state_dict(loader(batches_done=4).state_dict())
    assert len(resumed) == len(whole) == 6
    assert [labels.tolist() for _, labels in resumed] == whole[4:]
    assert [labels.tolist() for _, labels in resumed] == whole


def test_other_images_or_another_order_are_refused():
    def loader(length=50, batch_size=8, seed=1, done=0):
        dataset = ImageTensors(torch.zeros(length, 1, 2, 2, dtype=torch.uint8), torch.arange(length))
        return BatchLoader(dataset, EpochBatchSampler(length, batch_size, seed=seed), lambda: done)

    middle, end = loader(done=4).state_dict(), loader().state_dict()
    for state in (middle, end):
        with pytest.raises(ValueError, match="resumed had training images=50, but now it is 49"):
            loader(length=49).load_state_dict(state)
        with pytest.raises(ValueError, match="resumed had seed=1, but now it is 2"):
            loader(seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="resumed had batch_size=8, but now it is 4"):
        loader(batch_size=4).load_state_dict(middle)
    loader(batch_size=4).load_state_dict(end)  # between two epochs nothing is lost


def test_a_pass_draws_none_of_the_global_random_numbers():
    dataset = ImageTensors(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
    loader = BatchLoader(dataset, EpochBatchSampler(10, 4))
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)
