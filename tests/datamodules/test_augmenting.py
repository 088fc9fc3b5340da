import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from primenet_lightning import PrimeNet
from primenet_lightning.datamodules import Augment, DigitsDataModule
from primenet_lightning.datamodules.augmenting import augmented, refuse_augmentation

TO_FLOAT = v2.ToDtype(torch.float32, scale=True)


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)


@pytest.mark.parametrize(
    "augmentation",
    [
        TO_FLOAT,
        v2.Compose([v2.ToImage(), TO_FLOAT]),
        v2.ToDtype(torch.float64, scale=True),
        lambda images: images / 255,
        nn.Sequential(TO_FLOAT, nn.Identity()),
    ],
)
def test_floats_from_0_to_1_are_the_same_pixels(images, augmentation):
    pixels = augmented(augmentation, images)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, images.float(), atol=1e-4, rtol=0)


def test_a_network_trains_on_the_same_range_with_floats_as_with_uint8():
    pixels = []
    for augmentation in (None, TO_FLOAT):
        data = DigitsDataModule(augmentation=augmentation)
        data.setup()
        data.trainer = type("Training", (), {"training": True, "current_epoch": 0})()
        batch = data.train_dataset[torch.arange(64)]
        pixels.append(data.on_after_batch_transfer(batch, 0)[0])
    torch.testing.assert_close(pixels[0], pixels[1], atol=1e-5, rtol=0)
    assert pixels[1].min() == -1


def test_interpolation_may_overshoot(images):
    bicubic = v2.RandomResizedCrop(16, interpolation=v2.InterpolationMode.BICUBIC)
    pixels = augmented(v2.Compose([TO_FLOAT, bicubic]), images)
    assert pixels.dtype == torch.float32


@pytest.mark.parametrize("kind", [v1.RandomHorizontalFlip, v2.RandomHorizontalFlip])
@pytest.mark.parametrize("sequence", [nn.Sequential, lambda flip: flip, lambda flip: v2.Compose([flip])])
def test_transforms_of_torchvision_draw_for_each_image(kind, sequence):
    flip = sequence(kind())
    images = torch.arange(4, dtype=torch.uint8).expand(200, 1, 1, 4)
    flipped = augmented(flip, images)[:, 0, 0, 0] == 3
    assert 70 < flipped.sum() < 130  # half of them, within four deviations; by the batch it would be all or none
    assert torch.equal(augmented(flip, images[:1]).sort().values, images[:1])


def test_anything_else_gets_the_whole_batch(images):
    shapes = []

    def note(batch):
        shapes.append(tuple(batch.shape))
        return batch

    assert augmented(note, images) is images
    assert augmented(nn.Sequential(Augment(flip=True), v2.RandomVerticalFlip()), images).shape == images.shape
    assert augmented(v2.Compose([Augment(crop=1), v2.RandomVerticalFlip()]), images).dtype == torch.uint8
    assert shapes == [(6, 3, 16, 16)]


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandAugment(),
        v2.TrivialAugmentWide(),
        v2.AugMix(),
        v2.AutoAugment(),
        v2.GaussianBlur(3),
        v2.ColorJitter(0.3),
    ],
)
def test_torchvisions_augmentations_work(images, transform):
    refuse_augmentation(transform)
    pixels = augmented(transform, images)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, images.shape)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (v2.MixUp(num_classes=3), "has torchvision's MixUp, which mixes labels too, and every learner here is taught"),
        (v2.RandomChoice([v2.CutMix(num_classes=3)]), "has torchvision's CutMix, which mixes labels"),
        (
            v2.Compose([TO_FLOAT, v2.Normalize((0.5,), (0.5,))]),
            "has torchvision's Normalize, which normalizes, which the",
        ),
        (nn.Sequential(v1.Normalize((0.5,), (0.5,))), "has torchvision's Normalize"),
        (v1.Compose([v1.RandomCrop(8), v1.ToTensor()]), "has torchvision's ToTensor, which takes PIL pictures"),
        (v1.PILToTensor(), "has torchvision's PILToTensor, which takes PIL pictures"),
        (v2.Compose([v2.ToPILImage(), v2.PILToTensor()]), "has torchvision's ToPILImage, which gives PIL pictures"),
    ],
)
def test_what_cannot_work_is_refused_at_once(augmentation, message):
    with pytest.raises(ValueError, match=f"^augmentation {message}"):
        DigitsDataModule(augmentation=augmentation)


@pytest.mark.parametrize("augmentation", ["flip", v2.RandomHorizontalFlip])
def test_what_takes_no_images_is_refused_at_once(augmentation):
    with pytest.raises(TypeError, match=r"^augmentation=.* takes no images; give a module"):
        DigitsDataModule(augmentation=augmentation)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (
            v2.RandomCrop(8),
            "=RandomCrop made 6 x 3 x 8 x 8 of 6 x 3 x 16 x 16, .* give it an output of 16 by 16 pixels",
        ),
        (v2.Grayscale(1), "=Grayscale made 6 x 1 x 16 x 16 of"),
        (v2.RandomRotation((30, 45), expand=True), "=RandomRotation (gives images of different sizes|made)"),
        (lambda images: images[:3], "=<lambda> made 3 x 3 x 16 x 16 of"),
        (
            v2.ToDtype(torch.float32),
            "=ToDtype returned floats from 0 to 255; give uint8 from 0 to 255, or floats from 0 to 1",
        ),
        (lambda images: images / 127.5 - 1, "=<lambda> returned floats from -1 to 1"),
        (lambda images: images / 0.0, "=<lambda> returned floats from nan"),
        (v2.ToDtype(torch.int64), "=ToDtype returned torch.int64"),
        (v2.LinearTransformation(torch.eye(4), torch.zeros(4)), "=LinearTransformation fails on a torch.uint8 tensor"),
    ],
)
def test_what_comes_back_is_checked(augmentation, message):
    images = torch.arange(256, dtype=torch.uint8).repeat(18).view(6, 3, 16, 16)
    with pytest.raises(ValueError, match=f"^augmentation{message}"):
        augmented(augmentation, images)


@pytest.mark.parametrize("augmentation", [lambda images: None, lambda images: [Image.new("L", (8, 8))], v2.FiveCrop(8)])
def test_what_is_no_tensor_is_told(images, augmentation):
    with pytest.raises(
        TypeError, match=r"^augmentation=\S+ returned a (NoneType|list|tuple); give one that returns a tensor"
    ):
        augmented(augmentation, images)


def test_a_fit_with_torchvisions_transforms(make_trainer):
    augmentation = v2.Compose([v2.RandomCrop(8, padding=1), v2.RandomRotation(10), TO_FLOAT])
    data = DigitsDataModule(limit_train=200, augmentation=augmentation)
    trainer = make_trainer(limit_val_batches=0)
    trainer.fit(PrimeNet(depth=1, kernel_sizes=(3,), channels=2, projection_channels=2, head_channels=4), data)
    assert trainer.global_step == 3
