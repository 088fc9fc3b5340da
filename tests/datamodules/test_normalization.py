import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from primenet_lightning.datamodules import CIFAR10DataModule, MNISTDataModule, Normalize
from primenet_lightning.datamodules.normalization import channel_statistics

MEANS_AND_STDS = [
    ((0.5,) * 3, (0.5,) * 3),
    ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
    ((0.0,) * 3, (1.0,) * 3),
]


@pytest.mark.parametrize(("mean", "std"), MEANS_AND_STDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_torchvision(mean, std, channels):
    """Every value a pixel can have, in each channel."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pictures = [Image.fromarray(np.roll(pixels, shift, axis=0)) for shift in range(channels)]
    picture = Image.merge("RGB", pictures) if channels == 3 else pictures[0]
    mean, std = mean[:channels], std[:channels]
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(picture)
    normalized = Normalize(mean, std)(transforms.PILToTensor()(picture).unsqueeze(0))
    torch.testing.assert_close(normalized, expected.unsqueeze(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), MEANS_AND_STDS)
def test_the_same_on_a_device_and_on_what_an_augmentation_made_of_the_pixels(mean, std):
    """Float pixels take torch's way, as any batch on a GPU does."""
    images = torch.arange(768).view(1, 3, 16, 16).to(torch.uint8)
    normalize = Normalize(mean, std)
    torch.testing.assert_close(normalize(images.float()), normalize(images), rtol=0, atol=1e-6)
    if torch.cuda.is_available():
        torch.testing.assert_close(normalize(images.cuda()).cpu(), normalize(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_input_is_left_as_it_is(dtype):
    images = torch.full((2, 1, 3, 3), 7, dtype=dtype)
    assert Normalize((0.5,), (0.5,))(images).dtype == torch.float32
    assert (images == 7).all()


def test_statistics_equal_numpy_over_the_chosen_images():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 7), dtype=np.uint8)
    chosen = np.array([3, 4, 9, 20, 49])
    mean, std = channel_statistics(torch.from_numpy(images), torch.from_numpy(chosen), chunk=2)
    pixels = images[chosen].astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("normalization", ["symmetric", "standardize"])
@pytest.mark.parametrize(
    ("data_module", "dataset"), [(MNISTDataModule, datasets.MNIST), (CIFAR10DataModule, datasets.CIFAR10)]
)
def test_real_test_images_equal_torchvision(real_data, data_module, dataset, normalization):
    data = data_module(root=real_data, normalization=normalization, eval_batch_size=500, verify=False)
    data.setup("test")
    images, labels = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(data.mean, data.std)])
    reference = dataset(real_data, train=False, transform=transform)
    expected_images, expected_labels = zip(*(reference[i] for i in range(500)), strict=True)
    torch.testing.assert_close(images, torch.stack(expected_images), rtol=0, atol=1e-6)
    assert labels.tolist() == list(expected_labels)
