import numpy as np
import pytest

from primenet_lightning.datamodules import SVHNDataModule


@pytest.fixture
def splits(random_images):
    counts = {"train": 200, "test": 30, "extra": 50}
    return {name: random_images(count, 32, 32, 3, seed=count) for name, count in counts.items()}


@pytest.mark.parametrize("folder", [".", "svhn-subset"])
def test_matlab_files_are_parsed_and_called_a_subset(write_svhn, splits, no_download, folder):
    root = write_svhn(folder, train=splits["train"], test=splits["test"])
    data = SVHNDataModule(root=root, verify=False)
    data.prepare_data()
    data.setup("fit")
    for dataset, name in ((data.train_dataset, "train"), (data.test_dataset, "test")):
        images, labels = splits[name]
        np.testing.assert_array_equal(dataset.images.numpy(), images.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(dataset.labels.numpy(), labels)  # the file's 10 is the digit 0 again
    assert data.dataset_name == data.description()["dataset"] == "svhn-subset"


def test_extra_is_added_to_training(write_svhn, splits):
    data = SVHNDataModule(root=write_svhn(**splits), verify=False, extra=True)
    data.setup("fit")
    expected = np.concatenate([splits["train"][0], splits["extra"][0]]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.train_dataset.images.numpy(), expected)
    assert len(data.train_dataset) + len(data.validation_dataset) == 250


def test_a_missing_extra_file_is_named(write_svhn, splits):
    root = write_svhn(train=splits["train"], test=splits["test"])
    with pytest.raises(FileNotFoundError, match=r"extra_32x32\.mat is missing"):
        SVHNDataModule(root=root, verify=False, extra=True).setup("fit")


def test_the_subset_is_not_read_unless_asked_for(write_svhn, splits):
    root = write_svhn("svhn-subset", train=splits["train"], test=splits["test"])
    with pytest.raises(FileNotFoundError, match=r"train_32x32\.mat is missing"):
        SVHNDataModule(root=root).setup("fit")


def test_official_files_keep_the_name(write_svhn, splits, monkeypatch):
    data = SVHNDataModule(root=write_svhn(**splits), verify=False)
    official = {path: md5 for path, md5 in data.files().items()}
    monkeypatch.setattr("primenet_lightning.datamodules.svhn.calculate_md5", official.get)
    data.setup("fit")
    assert data.dataset_name == "svhn"


def test_real_subset(real_data, no_download):
    data = SVHNDataModule(root=real_data, verify=False)
    data.setup("fit")
    assert len(data.train_dataset) + len(data.validation_dataset) == 1083
    assert len(data.test_dataset) == 486
    assert data.dataset_name == "svhn-subset"
