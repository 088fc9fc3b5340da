import math

import pytest
import torch
from jsonargparse import ArgumentParser
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from primenet_lightning.datamodules import Augment, ImageDataModule
from primenet_lightning.datamodules.augmentation import Draws, crop_and_flip, cut_out, warp

SHAPES = [(1, 28, 28), (3, 12, 9)]


@pytest.fixture(params=SHAPES, ids=str)
def images(request):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (40, *request.param), generator=generator, dtype=torch.uint8)


def drawn(images, **options):
    """An augmentation, what it drew, and what it made of the images with that."""
    augment = Augment(**options)
    draws = augment.draw(images)
    return draws, augment.apply_draws(images, draws)


def each(draws):
    """The draws of one image after the other, as numbers."""
    return [Draws(*values) for values in zip(*(numbers.tolist() for numbers in draws), strict=True)]


@pytest.mark.parametrize("padding_mode", ["constant", "reflect"])
@pytest.mark.parametrize(("crop", "flip"), [(4, True), (3, False), (0, True), (8, True)])
def test_crop_and_flip_equal_torchvision_image_by_image(images, crop, flip, padding_mode):
    draws, result = drawn(images, crop=crop, flip=flip, padding_mode=padding_mode, fill=9)
    for image, augmented, one in zip(images, result, each(draws), strict=True):
        # torchvision reflects no bytes on every version
        padded = tv.pad(image.float(), [crop] * 4, fill=9, padding_mode=padding_mode).byte()
        expected = tv.crop(padded, one.top, one.left, *image.shape[1:])
        assert torch.equal(augmented, tv.horizontal_flip(expected) if one.flipped else expected)


def test_a_crop_with_constant_padding_is_a_shift():
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 10, 20] = 255
    shifted = Augment(crop=2)(image.expand(500, 1, 28, 28))
    assert (shifted.flatten(1) == 255).sum(1).unique().tolist() == [1]
    _, _, rows, columns = shifted.nonzero(as_tuple=True)
    assert {(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)} == {
        (r, c) for r in range(8, 13) for c in range(18, 23)
    }


@pytest.mark.parametrize(("side", "fill"), [(1, 0), (4, 0), (5, 128), (9, 255)])
def test_cutout_equals_a_slice_clipped_at_the_border(images, side, fill):
    draws, result = drawn(images, cutout=side, fill=fill)
    for image, augmented, one in zip(images, result, each(draws), strict=True):
        expected = image.clone()
        top, left = one.row - side // 2, one.column - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = fill
        assert torch.equal(augmented, expected)


@pytest.mark.parametrize("options", [dict(rotate=180.0), dict(scale=0.3), dict(shear=30.0), dict()], ids=str)
@pytest.mark.parametrize("fill", [0, 128])
def test_affine_map_equals_torchvision_image_by_image(images, options, fill):
    options = options or dict(rotate=15.0, scale=0.1, shear=10.0)
    draws, result = drawn(images, **options, fill=fill)
    for image, augmented, one in zip(images, result, each(draws), strict=True):
        # with a fill of its own torchvision would weigh the pixels at the edge twice
        pixels = image.float() - fill
        expected = fill + tv.affine(
            pixels, one.angle, [0, 0], one.zoom, [one.slant, 0.0], interpolation=InterpolationMode.BILINEAR
        )
        # half a pixel value by rounding, and what single precision does to a place between two pixels
        assert (augmented - expected).abs().max() <= 0.5 + 0.02


def test_a_quarter_turn_is_exact():
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    quarter, one, none = torch.tensor([90.0]), torch.ones(1), torch.zeros(1)
    assert torch.equal(warp(image, quarter, one, none, fill=7), image.rot90(-1, (2, 3)))  # clockwise


def test_extreme_pixels_do_not_wrap_around():
    white = torch.full((200, 1, 9, 9), 255, dtype=torch.uint8)
    assert drawn(white, rotate=180.0, scale=0.5, fill=255)[1].unique().tolist() == [255]
    assert drawn(white - 255, rotate=180.0, scale=0.5)[1].unique().tolist() == [0]


def test_all_together_are_map_then_crop_then_cutout(images):
    draws, result = drawn(images, crop=2, flip=True, cutout=3, rotate=20.0, fill=5)
    step = warp(images, draws.angle, draws.zoom, draws.slant, 5)
    step = crop_and_flip(step, draws.top, draws.left, draws.flipped, 2, "constant", 5)
    assert torch.equal(result, cut_out(step, draws.row, draws.column, 3, 5))


def test_draws_are_uniform_over_their_ranges():
    """Of n uniform draws each mean lies within five standard errors of the middle."""
    count = 20000
    images = torch.empty(count, 1, 12, 9, dtype=torch.uint8)
    draws = Augment(crop=4, flip=True, cutout=3, rotate=15.0, scale=0.1, shear=10.0).draw(images)
    for name, values in (("top", 9), ("left", 9), ("flipped", 2), ("row", 12), ("column", 9)):
        counts = torch.bincount(getattr(draws, name).long(), minlength=values)
        assert len(counts) == values
        assert ((counts - count / values).abs() < 5 * math.sqrt(count / values)).all()
    for name, low, high in (("angle", -15, 15), ("zoom", 0.9, 1.1), ("slant", -10, 10)):
        values = getattr(draws, name)
        width = high - low
        assert low <= values.min() < low + 0.01 * width
        assert high - 0.01 * width < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * count)
    numbers = torch.stack([numbers.double() for numbers in draws])
    assert (torch.corrcoef(numbers) - torch.eye(8)).abs().max() < 5 / math.sqrt(count)  # and independent


def test_input_stays_and_seeds_repeat(images):
    before = images.clone()
    augment = Augment(crop=2, flip=True, cutout=4, rotate=15.0, scale=0.1, shear=10.0)
    torch.manual_seed(3)
    first, second = augment(images), augment(images)
    assert torch.equal(images, before)
    assert (first.dtype, first.shape) == (torch.uint8, images.shape)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(augment(images), first)


def test_everything_is_off_by_default(images):
    assert torch.equal(Augment()(images), images)


def test_views_are_augmented_like_their_copies(images):
    draws, result = drawn(images, crop=2, flip=True, cutout=4)
    view = images.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert torch.equal(Augment(crop=2, flip=True, cutout=4).apply_draws(view, draws), result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(crop=-1), "crop=-1 is out of range; give 0 or more"),
        (dict(cutout=-8), "cutout=-8 is out of range; give 0 or more"),
        (dict(fill=256), "fill=256 is out of range; give 0 to 255"),
        (dict(rotate=181.0), r"rotate=181\.0 is out of range; give 0 to 180"),
        (dict(scale=1.0), r"scale=1\.0 is out of range; give 0 or more, and less than 1"),
        (dict(shear=90.0), r"shear=90\.0 is out of range; give 0 or more, and less than 90"),
        (dict(rotate=math.nan), "rotate=nan is out of range"),
        (dict(padding_mode="edge"), "padding_mode='edge' is unknown; give 'constant' or 'reflect'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        (
            dict(crop=9, padding_mode="reflect"),
            (1, 1, 12, 9),
            "crop=9 can lose images of 12x9 pixels; give less than 9",
        ),
        (dict(cutout=10), (1, 1, 12, 9), "cutout=10 exceeds images of 12x9 pixels; give at most 9"),
        (dict(flip=True), (1, 12, 9), "a batch of uint8 images"),
    ],
)
def test_images_that_do_not_fit_are_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)(torch.zeros(shape, dtype=torch.uint8))


def test_normalized_images_are_refused():
    with pytest.raises(ValueError, match=r"torch\.float32 of shape .* before they are normalized"):
        Augment(flip=True)(torch.zeros(1, 1, 9, 9))


def test_from_yaml_and_on_training_batches_only(recorder, make_trainer):
    parser = ArgumentParser()
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = parser.parse_string(
        """
        data:
          class_path: primenet_lightning.datamodules.DigitsDataModule
          init_args:
            augmentation:
              class_path: primenet_lightning.datamodules.Augment
              init_args: {crop: 2, padding_mode: reflect, flip: true, cutout: 3, rotate: 10, scale: 0.1}
        """
    )
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
    data = instantiate(config).data
    assert isinstance(data.augmentation, Augment)
    assert (data.augmentation.crop, data.augmentation.padding_mode, data.augmentation.rotate) == (2, "reflect", 10)
    recorder.layer = torch.nn.Linear(8 * 8, 10)
    plain = type(data)(batch_size=data.batch_size)
    plain.setup("fit")
    untouched, _ = plain.on_after_batch_transfer(next(iter(plain.val_dataloader())), 0)
    trainer = make_trainer(limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0)
    trainer.fit(recorder, data)
    assert torch.equal(recorder.batches["validation"][0][1], untouched)
    plain.trainer = trainer
    original, _ = plain.on_after_batch_transfer(next(iter(plain.train_dataloader())), 0)
    assert recorder.batches["train"][0][1].shape == original.shape
    assert not torch.equal(recorder.batches["train"][0][1], original)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
def test_the_same_on_a_gpu(images):
    draws, result = drawn(images, crop=2, flip=True, cutout=3)
    augment = Augment(crop=2, flip=True, cutout=3)
    there = augment.apply_draws(images.cuda(), Draws(*(numbers.cuda() for numbers in draws)))
    assert torch.equal(there.cpu(), result)
    assert augment(images.cuda()).device.type == "cuda"
