import numpy as np
import pytest
import torch
import torchvision

from primenet_lightning.datamodules import MNISTDataModule


class FashionMNISTDataModule(MNISTDataModule):
    name = "fashion-mnist"
    class_names = tuple(torchvision.datasets.FashionMNIST.classes)
    torchvision_dataset = torchvision.datasets.FashionMNIST
    checksums = {}  # noqa: RUF012 -- as in the example of the docstring


@pytest.mark.parametrize(
    ("data_module", "folder", "verify"),
    [(MNISTDataModule, "MNIST", False), (FashionMNISTDataModule, "FashionMNIST", True)],
)
def test_idx_files_are_parsed(write_mnist, random_images, no_download, data_module, folder, verify):
    train, test = random_images(200, 28, 28), random_images(30, 28, 28, seed=1)
    data = data_module(root=write_mnist(train, test, folder), verify=verify)
    data.prepare_data()
    data.setup("fit")
    np.testing.assert_array_equal(data.train_dataset.images.numpy()[:, 0], train[0])
    np.testing.assert_array_equal(data.train_dataset.labels.numpy(), train[1])
    np.testing.assert_array_equal(data.test_dataset.images.numpy()[:, 0], test[0])
    assert data.description()["dataset"] == data.dataset_name == data.name


def test_another_class_brings_its_own_names():
    assert FashionMNISTDataModule.class_names[9] == "Ankle boot"


def test_real_mnist_is_official_and_balanced_as_known(real_data, no_download):
    data = MNISTDataModule(root=real_data, normalization="standardize")
    data.setup("fit")
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as published
    assert torch.bincount(data.train_dataset.labels).tolist() == counts
    assert (len(data.train_dataset), len(data.validation_dataset), len(data.test_dataset)) == (
        54_000,
        6_000,
        10_000,
    )
    held_out = torch.bincount(data.validation_dataset.all_labels())
    assert ((held_out - torch.tensor(counts) / 10).abs() < 1).all()
    # 0.1307 and 0.3081 are the figures everybody uses, for all 60,000 images
    assert data.mean == pytest.approx([0.1307], abs=5e-4)
    assert data.std == pytest.approx([0.3081], abs=5e-4)
