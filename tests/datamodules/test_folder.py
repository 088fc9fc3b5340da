import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from primenet_lightning.datamodules import FolderDataModule, ImageFileError, ImageFiles


def fill(folder, count, classes=("cat", "dog"), seed=0):
    """Pictures of any size, in one folder a class."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            height, width = generator.integers(6, 20, 2)
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def pets(tmp_path):
    fill(tmp_path / "pets", 20)
    return tmp_path / "pets"


@pytest.fixture
def splits(tmp_path):
    for seed, (name, count) in enumerate([("train", 8), ("val", 2), ("test", 3)]):
        fill(tmp_path / "splits" / name, count, seed=seed)
    return tmp_path / "splits"


def set_up(**options):
    data = FolderDataModule(**({"image_size": 8} | options))
    data.prepare_data()
    data.setup()
    return data


def lengths(data):
    return len(data.train_dataset), len(data.validation_dataset), len(data.test_dataset)


# Where pictures are


def test_folders_of_classes_are_split_in_proportion(pets):
    data = set_up(root=pets)
    assert (data.name, data.class_names, data.num_classes) == ("pets", ("cat", "dog"), 2)
    assert lengths(data) == (29, 3, 8)
    assert torch.bincount(data.test_dataset.labels).tolist() == [4, 4]
    other_seed = set_up(root=pets, seed=1)
    assert torch.equal(other_seed.test_dataset.images, data.test_dataset.images)  # whatever the seed
    assert not torch.equal(other_seed.validation_dataset.indices, data.validation_dataset.indices)


def test_folders_of_splits_are_taken_as_they_are(splits):
    data = set_up(root=splits)
    assert lengths(data) == (16, 4, 6)
    for name, split in (("val", data.validation_dataset), ("test", data.test_dataset)):
        expected = [ImageFiles(splits / name / kind, (8, 8), 3, "stretch").load().images for kind in ("cat", "dog")]
        found, labels = split[torch.arange(len(split))]
        assert torch.equal(found, torch.cat(expected))
        assert labels.tolist() == [0] * len(expected[0]) + [1] * len(expected[1])


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_the_validation_folder_may_have_other_names(splits, name):
    (splits / "val").rename(splits / name)
    assert lengths(set_up(root=splits)) == (16, 4, 6)


def test_what_has_no_folder_is_held_out(splits):
    shutil.rmtree(splits / "val")
    assert lengths(set_up(root=splits, validation_fraction=0.25)) == (12, 4, 6)
    shutil.rmtree(splits / "test")
    assert lengths(set_up(root=splits, validation_fraction=0.25, test_fraction=0.5)) == (6, 2, 8)


def test_folders_can_be_named(splits, pets):
    data = set_up(root=splits, train_folder=pets, validation_folder="test", test_folder=splits / "val")
    assert lengths(data) == (40, 6, 4)


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "vehicles", 10, ("car", "train"))
    data = set_up(root=tmp_path / "vehicles", validation_fraction=0.25)
    assert data.class_names == ("car", "train")


def test_labels_are_those_of_torchvision_and_hidden_files_are_left_out(pets):
    expected = ImageFolder(str(pets)).class_to_idx
    (pets / ".ipynb_checkpoints").mkdir()
    (pets / "cat" / ".cache").mkdir()
    shutil.copy(pets / "cat" / "0.png", pets / "cat" / ".cache" / "0.png")
    for name in ("._0.png", ".DS_Store", "notes.txt", "Thumbs.db"):
        (pets / "cat" / name).write_bytes(b"no picture")
    (pets / "dog" / "more").mkdir()
    shutil.copy(pets / "dog" / "0.png", pets / "dog" / "more" / "UPPER.PNG")
    data = set_up(root=pets)
    assert {name: label for label, name in enumerate(data.class_names)} == expected
    assert sum(lengths(data)) == 41


# What becomes of them


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_training_and_prediction_read_the_same_pixels(splits, fit, channels):
    data = set_up(root=splits, in_channels=channels, image_size=(6, 10), fit=fit)
    described = data.description()
    assert (described["picture_size"], described["fit"]) == ([6, 10], fit)
    predicted = ImageFiles(splits / "test" / "cat", (6, 10), channels, fit).load().images
    assert torch.equal(data.test_dataset.images[: len(predicted)], predicted)


def test_files_to_predict_are_resized_as_in_training(splits):
    data = set_up(root=splits, resize=12, predict_files=str(splits / "test" / "cat"))
    images, paths = next(iter(data.predict_dataloader()))
    assert images.shape == (3, 3, 8, 8)
    assert data.on_after_batch_transfer((images, paths), 0)[0].shape == (3, 3, 12, 12)


def test_pixels_in_a_file_are_those_in_memory(splits, tmp_path):
    in_memory = set_up(root=splits)
    mapped = set_up(root=splits, memory_limit=0, cache_folder=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_size == 26 * 3 * 8 * 8 + 128 + 32  # numpy's header, and a check sum
    for name in ("train_dataset", "validation_dataset", "test_dataset"):
        one, other = getattr(in_memory, name), getattr(mapped, name)
        everything = torch.arange(len(one))
        assert all(map(torch.equal, one[everything], other[everything]))
    for copied in (pickle.loads(pickle.dumps(mapped)), copy.deepcopy(mapped)):
        assert torch.equal(copied.test_dataset.images, in_memory.test_dataset.images)
    assert len(pickle.dumps(mapped)) < len(pickle.dumps(in_memory)) / 2


def test_the_file_is_read_again_only_if_a_picture_or_an_option_has_changed(splits, monkeypatch):
    set_up(root=splits, memory_limit=0)

    def never(*args, **kwargs):
        raise AssertionError("a picture was read again")

    with monkeypatch.context() as patch:
        patch.setattr("primenet_lightning.datamodules.folder.read_picture", never)
        again = set_up(root=splits, memory_limit=0, seed=3)
    set_up(root=splits, memory_limit=0, fit="crop")
    Image.new("RGB", (50, 50)).save(splits / "train" / "cat" / "0.png")
    changed = set_up(root=splits, memory_limit=0)
    assert len(list((splits / ".primenet-cache").iterdir())) == 3
    assert not torch.equal(again.train_dataset.images, changed.train_dataset.images)


@pytest.mark.parametrize("place", [20, 300, -1])
def test_a_damaged_file_of_pixels_is_written_anew(splits, place):
    expected = set_up(root=splits, memory_limit=0).train_dataset.images.clone()
    for file in (splits / ".primenet-cache").iterdir():
        content = bytearray(file.read_bytes())
        content[place] ^= 4
        file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"npy is damaged, or of an earlier version: the pictures are read anew"):
        again = set_up(root=splits, memory_limit=0)
    assert torch.equal(again.train_dataset.images, expected)


def test_the_place_of_the_cache_is_no_class(pets):
    set_up(root=pets, memory_limit=0)
    assert set_up(root=pets).class_names == ("cat", "dog")


# What is refused


def test_broken_files_are_named(splits):
    (splits / "train" / "cat" / "1.png").write_bytes(b"no picture")
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(splits / "test" / "dog" / "deep.png")
    for options in ({}, {"memory_limit": 0}):
        with pytest.raises(
            ImageFileError, match=r"cat/1\.png cannot be read .*deep\.png has pixels of more.* delete them"
        ):
            set_up(root=splits, **options)
    cache = splits / ".primenet-cache"
    assert list(cache.iterdir()) == []


def test_only_some_of_many_broken_files_are_named(splits):
    for number in range(5):
        (splits / "train" / "cat" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(ImageFileError, match=r"0\.png .*1\.png .*2\.png .* \(2 more files cannot be used\.\)"):
        set_up(root=splits)


def test_classes_that_do_not_match_are_named(splits):
    fill(splits / "val", 1, ["mouse"])
    with pytest.raises(ValueError, match=r"val has a class 'mouse' that .*train does not have; rename or"):
        set_up(root=splits)
    (splits / "train" / "mouse").mkdir()
    with pytest.raises(ValueError, match=r"splits has no training image at all of class 'mouse'|training split"):
        set_up(root=splits)


def test_folders_without_pictures_are_told(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"has no pictures in its folders; give root"):
        FolderDataModule(root=tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"root": "nowhere"}, FileNotFoundError, "nowhere is no folder; give root"),
        ({"train_folder": "trian"}, FileNotFoundError, "trian is no folder; give root"),
        ({"image_size": 0}, ValueError, "image_size=0 must be at least 1 pixel"),
        ({"image_size": (8, 8, 3)}, ValueError, r"image_size=\(8, 8, 3\) is no size"),
        ({"in_channels": 4}, ValueError, "in_channels=4 fits no image file"),
        ({"fit": "zoom"}, ValueError, "fit='zoom' is unknown; give 'stretch', 'crop', 'pad'"),
        ({"test_fraction": 1.5}, ValueError, r"test_fraction=1\.5 is out of range"),
        ({"memory_limit": -1}, ValueError, "memory_limit=-1 must be at least 0 GiB"),
        ({"resize": 0}, ValueError, "resize=0 must be at least 1 pixel"),
    ],
)
def test_wrong_arguments_are_named(pets, options, kind, message):
    with pytest.raises(kind, match=message):
        FolderDataModule(**({"root": pets} | options))


def test_a_folder_without_folders_is_told(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has no folders; put the pictures of each class into a folder of its name"):
        FolderDataModule(root=tmp_path)


def test_a_cache_that_cannot_be_written_is_told(pets, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"pixels of 40 pictures cannot be kept in .*; give cache_folder on a disk"):
        set_up(root=pets, memory_limit=0, cache_folder=tmp_path / "file")


def test_places_are_no_hyperparameters(splits):
    saved = FolderDataModule(root=splits, train_folder="train", cache_folder="x").hparams
    assert saved["image_size"] == 64
    assert not {"root", "train_folder", "cache_folder"} & set(saved)
