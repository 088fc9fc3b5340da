import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from primenet_lightning import PrimeNet
from primenet_lightning.analysis.views import as_pixels
from primenet_lightning.datamodules import DigitsDataModule, Normalize, Preprocess
from primenet_lightning.datamodules.preprocessing import as_size, resized

TINY = dict(depth=1, kernel_sizes=(3,), channels=2, projection_channels=2, head_channels=4)


@pytest.mark.parametrize(("before", "after"), [((8, 8), (16, 20)), ((20, 12), (7, 6)), ((8, 8), (8, 5))])
def test_resizing_is_bilinear_and_antialiased(before, after):
    images = torch.randint(0, 256, (4, 3, *before), dtype=torch.uint8)
    expected = F.interpolate(images.float(), after, mode="bilinear", antialias=True, align_corners=False)
    found = resized(images, after)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert (found.float() - expected).abs().max() <= 1


def test_one_pixel_is_a_size():
    """Torch's kernel for uint8 failed in an assertion of its own where channels came last in memory."""
    pictures = torch.randint(256, (2, 3, 6, 6), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    (pixel,) = resized(pictures[:1], (1, 1))
    expected = F.interpolate(pictures[:1].double(), (1, 1), mode="bilinear", antialias=True)
    assert (pixel - expected[0]).abs().max() <= 0.5


def test_the_same_preprocessing_comes_out_of_a_description():
    data = DigitsDataModule(resize=(12, 10), normalization="standardize")
    data.setup()
    images = data.test_dataset.images[:5]
    description = data.description()
    assert (description["image_size"], description["picture_size"]) == ([12, 10], [8, 8])
    assert torch.equal(Preprocess.of(description)(images), data.normalize(images))
    del description["picture_size"]  # as in checkpoints of before
    description["image_size"] = [8, 8]
    assert Preprocess.of(description)(images).shape == (5, 1, 8, 8)


def test_pictures_of_neither_size_are_refused():
    preprocess = Preprocess(Normalize((0.5,), (0.5,)), (8, 8), (16, 16))
    assert preprocess(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)).shape == (2, 1, 16, 16)
    with pytest.raises(
        ValueError, match=r"the images have 9 by 8 pixels; give pictures of \(8, 8\), which are resized to"
    ):
        preprocess(torch.zeros(2, 1, 9, 8, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(1, 2, 3), (4.0, 4.0), "44", ()])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match=r"resize=.* is no size; give height and width"):
        as_size("resize", size)
    with pytest.raises(ValueError, match="resize=0 must be at least 1 pixel"):
        as_size("resize", (4, 0))


# As an option of the data modules


def test_a_network_gets_resized_batches_in_every_split(make_trainer):
    shapes = []

    def note(images):
        shapes.append(images.shape[2:])
        return images

    data = DigitsDataModule(limit_train=100, resize=12, augmentation=note)
    assert (data.image_size, data.picture_size) == ((12, 12), (8, 8))
    model = PrimeNet(1, data.image_size, 10, **TINY)
    trainer = make_trainer()
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert data.train_dataset.images.shape[2:] == (8, 8)
    assert set(shapes) == {(12, 12)}
    assert model.data_description["image_size"] == [12, 12]


@pytest.mark.parametrize("resize", [None, 12])
def test_loaders_of_the_data_module_give_all_predictions_to_any_trainer(make_trainer, resize):
    """They yield pixels of uint8: what to do with them, the model knows from its fit."""
    data = DigitsDataModule(limit_train=100, resize=resize, eval_batch_size=100)
    model = PrimeNet(1, data.image_size, 10, **TINY)
    trainer = make_trainer()
    trainer.fit(model, data)
    model.eval()
    with torch.no_grad():
        expected = model(data.normalize(data.test_dataset.images)).softmax(1)
    torch.testing.assert_close(torch.cat(trainer.predict(model, data.test_dataloader())), expected)
    both = trainer.predict(model, [data.test_dataloader(), data.val_dataloader()])
    torch.testing.assert_close(torch.cat(both[0]), expected)
    assert [len(torch.cat(part)) for part in both] == [359, 144]
    plain = TensorDataset(data.normalize(data.test_dataset.images), data.test_dataset.labels)
    torch.testing.assert_close(torch.cat(trainer.predict(model, DataLoader(plain, batch_size=50))), expected)
    pixels = TensorDataset(data.test_dataset.images, data.test_dataset.labels)
    torch.testing.assert_close(torch.cat(trainer.predict(model, DataLoader(pixels, batch_size=50))), expected)


def test_pixels_that_nobody_can_normalise_are_refused(make_trainer):
    data = DigitsDataModule()
    data.setup()
    model = PrimeNet(1, (8, 8), 10, **TINY)
    with pytest.raises(ValueError, match=r"images have dtype torch\.uint8; normalise them"):
        make_trainer().predict(model, data.test_dataloader())


def test_training_on_pixels_without_the_data_module_is_refused(make_trainer):
    """It could not augment them."""
    data = DigitsDataModule(limit_train=100)
    model = PrimeNet(1, (8, 8), 10, **TINY)
    make_trainer().fit(model, data)
    with pytest.raises(ValueError, match=r"images have dtype torch\.uint8; normalise them"):
        make_trainer().fit(model, data.train_dataloader())


def test_pixels_in_pictures_of_errors_are_the_datas_own():
    data = DigitsDataModule(limit_train=100, normalization="standardize")
    data.setup()
    images = data.test_dataset.images[:20]
    assert torch.equal(as_pixels(images, data.mean, data.std), images[:, 0])
    assert torch.equal(as_pixels(data.normalize(images), data.mean, data.std), images[:, 0])
