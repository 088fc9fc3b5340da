import numpy as np
import torch
from sklearn.datasets import load_digits

from primenet_lightning.datamodules import DigitsDataModule


def rows(images, labels):
    """A multiset of scans with their labels."""
    return sorted((*image.flatten().tolist(), int(label)) for image, label in zip(images, labels, strict=True))


def test_no_scan_is_lost_and_every_level_can_be_told_again():
    train_images, train_labels, test_images, test_labels = DigitsDataModule().load_arrays()
    images = np.concatenate([train_images, test_images])
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
    levels = np.rint(images.astype(float) * 16 / 255)
    digits = load_digits()
    assert rows(levels, np.concatenate([train_labels, test_labels])) == rows(digits.images, digits.target)


def test_a_level_becomes_the_nearest_whole_number():
    levels = np.unique(load_digits().images)
    assert np.unique(DigitsDataModule().load_arrays()[0]).tolist() == [round(level * 255 / 16) for level in levels]


def test_test_split_is_stratified_and_the_same_for_every_seed():
    first, second = DigitsDataModule(seed=0), DigitsDataModule(seed=1, validation_fraction=0.3)
    for data in (first, second):
        data.setup("test")
    assert torch.equal(first.test_dataset.images, second.test_dataset.images)
    assert not torch.equal(first.validation_dataset.all_labels(), second.validation_dataset.all_labels())
    counts = torch.bincount(first.test_dataset.labels)
    exact = torch.from_numpy(np.bincount(load_digits().target)) * 359 / 1797
    assert len(first.test_dataset) == 359
    assert ((counts - exact).abs() < 1).all()
