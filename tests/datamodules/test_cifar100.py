import pickle

import numpy as np

from primenet_lightning.datamodules import CIFAR100DataModule


def test_pickled_files_are_parsed(tmp_path, no_download):
    """In the layout of its authors: bytes by row, with fine and coarse labels."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    written = {}
    for name, count in (("train", 1000), ("test", 100)):
        images = generator.integers(0, 256, (count, 3, 32, 32), np.uint8)
        fine = [number % 100 for number in range(count)]
        entry = {
            "data": images.reshape(count, -1),
            "fine_labels": fine,
            "coarse_labels": [label // 5 for label in fine],
        }
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
        written[name] = images
    data = CIFAR100DataModule(root=tmp_path, verify=False)
    data.prepare_data()
    data.setup("fit")
    np.testing.assert_array_equal(data.train_dataset.images.numpy(), written["train"])
    np.testing.assert_array_equal(data.test_dataset.images.numpy(), written["test"])
    assert data.test_dataset.labels.tolist() == list(range(100))


def test_names_are_100_in_the_order_of_the_alphabet():
    names = CIFAR100DataModule.class_names
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert (names[0], names[19], names[67], names[99]) == ("apple", "cattle", "ray", "worm")


def test_files_are_verified_by_the_md5_that_torchvision_knows():
    assert {path.name: md5 for path, md5 in CIFAR100DataModule().files().items()} == {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }
