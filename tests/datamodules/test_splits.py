import pytest
import torch

from primenet_lightning.datamodules.splits import stratified_split


def test_every_class_keeps_its_share_to_within_one_image():
    counts = torch.tensor([700, 203, 50, 47])
    labels = torch.arange(4).repeat_interleave(counts)[torch.randperm(1000)]
    rest, held_out = stratified_split(labels, count=137, seed=0)
    assert len(held_out) == 137
    assert sorted([*rest.tolist(), *held_out.tolist()]) == list(range(1000))
    exact = counts * 137 / 1000
    assert ((torch.bincount(labels[held_out]) - exact).abs() < 1).all()


def test_indices_ascend_and_depend_on_the_seed():
    labels = torch.arange(100) % 10
    first, again, other = (stratified_split(labels, 30, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again == sorted(first)
    assert first != other


def test_members_are_not_simply_the_first_of_their_class():
    labels = torch.zeros(1000, dtype=torch.int64)
    _, held_out = stratified_split(labels, 100, seed=0)
    assert 400 < held_out.float().mean() < 600


@pytest.mark.parametrize(("count", "left"), [(0, 5), (5, 0)])
def test_nothing_and_everything(count, left):
    rest, held_out = stratified_split(torch.tensor([0, 1, 1, 0, 1]), count, seed=0)
    assert (len(rest), len(held_out)) == (left, count)


def test_too_many():
    with pytest.raises(ValueError, match=r"count=6 cannot be held out of 5 images; give 0 to 5"):
        stratified_split(torch.zeros(5, dtype=torch.int64), 6, seed=0)
