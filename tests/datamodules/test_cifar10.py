import pickle

import numpy as np
import pytest
import torch

from primenet_lightning.datamodules import CIFAR10DataModule


def test_pickled_batches_are_parsed(write_cifar10, random_images, no_download):
    train, test = random_images(200, 3, 32, 32), random_images(30, 3, 32, 32, seed=1)
    data = CIFAR10DataModule(root=write_cifar10(train, test), verify=False)
    data.prepare_data()
    data.setup("fit")
    np.testing.assert_array_equal(data.train_dataset.images.numpy(), train[0])
    np.testing.assert_array_equal(data.train_dataset.labels.numpy(), train[1])
    np.testing.assert_array_equal(data.test_dataset.images.numpy(), test[0])
    np.testing.assert_array_equal(data.test_dataset.labels.numpy(), test[1])


def test_real_cifar10_is_official_and_has_these_names(real_data, no_download):
    data = CIFAR10DataModule(root=real_data, normalization="standardize")
    data.setup("fit")
    assert torch.bincount(data.train_dataset.labels).tolist() == [5000] * 10
    assert torch.bincount(data.validation_dataset.all_labels()).tolist() == [500] * 10
    meta = pickle.loads((real_data / "cifar-10-batches-py" / "batches.meta").read_bytes())
    assert list(data.class_names) == meta["label_names"]
    assert data.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)  # as published, for all 50,000
    assert data.std == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-3)
