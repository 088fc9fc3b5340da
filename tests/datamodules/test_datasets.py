import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from primenet_lightning.datamodules import DatasetsDataModule, ImageDataModule

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (30, 8, 9, 3), np.uint8)
LABELS = [number % 3 for number in range(30)]
PICTURES = [(Image.fromarray(pixels), label) for pixels, label in zip(PIXELS, LABELS, strict=True)]
FIRST_LAST = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


def set_up(train, test=PICTURES, **options):
    data = ImageDataModule.from_datasets(train, test, **options)
    data.setup()
    return data


def all_images(data):
    """Training and validation images, in the order of the data set."""
    return data.train_dataset.images


# Images


@pytest.mark.parametrize(
    "images",
    [
        [picture for picture, _ in PICTURES],
        FIRST_LAST,
        FIRST_LAST / 255,
        (FIRST_LAST / 255).half(),
        list(PIXELS),
        [v2.functional.to_image(picture) for picture, _ in PICTURES],
    ],
)
def test_every_kind_of_image_becomes_the_same_pixels(images):
    data = set_up(list(zip(images, LABELS, strict=True)))
    assert isinstance(data, DatasetsDataModule)
    assert (data.in_channels, data.image_size, data.num_classes) == (3, (8, 9), 3)
    assert torch.equal(all_images(data), FIRST_LAST)
    assert data.train_dataset.labels.tolist() == LABELS
    assert data.description()["fit"] is None


def test_two_dimensions_are_grey():
    data = set_up([(PIXELS[i, :, :, 0], LABELS[i]) for i in range(30)])
    assert (data.in_channels, data.image_size) == (1, (8, 9))


def test_a_data_set_of_torchvision_with_its_transform():
    plain, tensors = (FakeData(60, (3, 12, 10), 4, transform=transform) for transform in (None, v1.ToTensor()))
    one, other = set_up(Subset(plain, range(50)), plain), set_up(Subset(tensors, range(50)), tensors)
    assert (one.name, one.image_size, one.class_names) == ("fakedata", (12, 10), ("0", "1", "2", "3"))
    assert torch.equal(all_images(one), all_images(other))
    assert all_images(one)[7].permute(1, 2, 0).numpy().tolist() == np.asarray(plain[7][0]).tolist()


def test_names_are_those_of_the_data_set():
    pictures = FakeData(60, (3, 8, 9), 3)
    pictures.classes = ["cat", "dog", "mouse"]
    assert set_up(pictures).class_names == ("cat", "dog", "mouse")
    assert set_up(Subset(Subset(pictures, range(50)), range(40))).class_names == ("cat", "dog", "mouse")
    named = set_up(pictures, class_names=["a", "b", "c"], name="pets")
    assert (named.class_names, named.name) == (("a", "b", "c"), "pets")


def test_validation_images_that_come_with_a_data_set():
    data = set_up(PICTURES, validation=PICTURES[:6])
    assert (len(data.train_dataset), len(data.validation_dataset)) == (30, 6)
    images, labels = data.validation_dataset[torch.arange(6)]
    assert torch.equal(images, FIRST_LAST[:6])
    assert labels.tolist() == LABELS[:6]


def test_images_are_turned_resized_and_converted_where_asked():
    picture = Image.fromarray(PIXELS[0]).convert("L")
    picture.getexif()[0x0112] = 3
    train = [(picture, label) for label in LABELS]
    data = set_up(train, in_channels=3, image_size=(8, 9))
    grey = np.asarray(picture)[::-1, ::-1]
    np.testing.assert_array_equal(all_images(data)[0].numpy(), np.stack([grey] * 3))
    mixed = [(Image.new("RGB", (8 + i % 2, 9)), LABELS[i]) for i in range(30)]
    assert all_images(set_up(mixed, image_size=6, fit="crop")).shape == (30, 3, 6, 6)
    assert all_images(set_up([*zip(FIRST_LAST, LABELS, strict=True)], image_size=6)).shape == (30, 3, 6, 6)


def test_other_numbers_of_channels_are_kept():
    images = torch.zeros(30, 5, 4, 4, dtype=torch.uint8)
    pairs = list(zip(images, LABELS, strict=True))
    assert set_up(pairs, pairs).in_channels == 5
    with pytest.raises(ValueError, match="images with other than 1 or 3 channels cannot be resized"):
        set_up(pairs, pairs, image_size=8)


# Labels


def test_every_kind_of_whole_number_is_a_label():
    kinds = [
        int,
        np.int16,
        np.uint8,
        torch.tensor,
        lambda label: np.array([label]),
        lambda label: torch.tensor([label]),
    ]
    train = [(PICTURES[i][0], kinds[i % 6](LABELS[i])) for i in range(30)]
    assert set_up(train).train_dataset.labels.tolist() == LABELS
    tensors = TensorDataset(FIRST_LAST, torch.tensor(LABELS, dtype=torch.int32))
    assert set_up(tensors).train_dataset.labels.tolist() == LABELS


@pytest.mark.parametrize("label", [0.5, 1.0, "cat", None, True, torch.eye(3)[0], torch.tensor(1.0), (0, 1)])
def test_what_is_no_class_index_is_refused(label):
    with pytest.raises(TypeError, match=r"image 0 of train has the label .*; give one whole number"):
        set_up([(PICTURES[0][0], label)])


def test_class_indices_out_of_range_are_told():
    with pytest.raises(ValueError, match="image 0 of train has the label -1; class indices count from 0"):
        set_up([(PICTURES[0][0], -1)])
    with pytest.raises(ValueError, match="class_names has 2 names for list, which has a label 2; give one name"):
        set_up(PICTURES, class_names=("a", "b"))
    with pytest.raises(ValueError, match=r"no training image at all of class '0'.*labels count from 0"):
        set_up([(picture, label + 1) for picture, label in PICTURES])


# What is refused


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PICTURES)


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [
        (
            [*PICTURES, (Image.new("RGB", (7, 7)), 0)],
            ValueError,
            r"image 30 of train is 7 pixels wide and 7 high, the first",
        ),
        (
            FakeData(9, (3, 8, 9), 3, v1.Compose([v1.ToTensor(), v1.Normalize(0.5, 0.5)])),
            ValueError,
            "has floats from -",
        ),
        ([(FIRST_LAST[0].long(), 0)], ValueError, r"image 0 of train is torch\.int64"),
        ([(torch.zeros(2, 3, 4, 4), 0)], ValueError, r"image 0 of train has shape \(2, 3, 4, 4\)"),
        ([(Image.fromarray(PIXELS[0, :, :, 0].astype(np.uint16)), 0)], ValueError, "has pixels of more than 8 bits"),
        ([("a.png", 0)], TypeError, "image 0 of train is a str; give PIL pictures, tensors or arrays"),
        ([Image.new("L", (8, 8))], TypeError, "item 0 of train is a Image; give pairs"),
        ([(1, 2, 3)], TypeError, "item 0 of train is a tuple of 3; give pairs"),
        ([], ValueError, "train=list has no images"),
        ({"x": 1}, TypeError, "train=dict has no length or no items by position; give a map-style data set"),
        (Stream(), TypeError, "train=Stream has no length or no items by position; give a map-style data set"),
    ],
)
def test_what_cannot_be_used_is_told(train, kind, message):
    with pytest.raises(kind, match=message):
        set_up(train)


def test_validation_images_that_are_none_are_told():
    with pytest.raises(TypeError, match=r"validation=float has no length or no items by position"):
        DatasetsDataModule(PICTURES, PICTURES, validation=1.5)


@pytest.mark.parametrize(
    "transform",
    [v1.RandomCrop(8), v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip()]), v2.ColorJitter(0.5), v1.RandAugment()],
)
def test_an_augmentation_inside_a_data_set_is_refused(transform):
    """It would be drawn once, and be the same in every epoch."""
    data = Subset(FakeData(9, (3, 8, 9), 3, transform=transform), range(8))
    with pytest.raises(
        ValueError, match=r"train has a transform \w+, which would be drawn once and then stay; .*augmentation"
    ):
        set_up(data)
