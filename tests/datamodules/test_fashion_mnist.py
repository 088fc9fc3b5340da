import numpy as np
import torchvision

from primenet_lightning.datamodules import FashionMNISTDataModule


def test_idx_files_are_parsed(write_mnist, random_images, no_download):
    train, test = random_images(200, 28, 28), random_images(30, 28, 28, seed=1)
    data = FashionMNISTDataModule(root=write_mnist(train, test, "FashionMNIST"))
    data.prepare_data()
    data.setup("fit")
    np.testing.assert_array_equal(data.train_dataset.images.numpy()[:, 0], train[0])
    np.testing.assert_array_equal(data.test_dataset.labels.numpy(), test[1])
    assert data.description()["dataset"] == "fashion-mnist"
    assert data.class_names == tuple(torchvision.datasets.FashionMNIST.classes)


def test_torchvision_downloads_what_is_missing(tmp_path, monkeypatch):
    asked = []

    def download(url, download_root, filename, md5):
        asked.append((filename, md5))
        raise OSError("no route")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    data = FashionMNISTDataModule(root=tmp_path)
    try:
        data.prepare_data()
    except OSError as error:
        assert "fashion-mnist could not be downloaded" in str(error)  # noqa: PT017
    first, md5 = torchvision.datasets.FashionMNIST.resources[0]
    assert asked[0] == (first, md5)
