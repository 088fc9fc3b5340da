"""What a picture becomes: worked out in numpy, by the definition of EXIF's tag and of compositing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primenet_lightning.datamodules import ImageFileError
from primenet_lightning.datamodules.pictures import as_pixels, fitted, picture_of, picture_suffixes, read_picture

STORED = np.random.default_rng(0).integers(0, 256, (8, 6), np.uint8)

UPRIGHT = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.T,
    6: STORED[::-1].T,
    7: STORED[::-1, ::-1].T,
    8: STORED[:, ::-1].T,
}
"""How rows and columns are to be shown, by EXIF's tag: 6 says that the first row is the right side."""


def with_orientation(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


@pytest.mark.parametrize("tag", UPRIGHT)
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("webp", {"lossless": True}), ("tif", {"compression": "tiff_lzw"})]
)
def test_a_picture_is_turned_as_its_camera_was_held(tmp_path, tag, suffix, options):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(STORED).save(path, exif=with_orientation(tag), **options)
    expected = UPRIGHT[tag]
    np.testing.assert_array_equal(read_picture(path, expected.shape, 1)[0].numpy(), expected)


def test_the_size_that_counts_is_that_of_the_turned_picture(tmp_path):
    Image.fromarray(STORED).save(tmp_path / "photo.png", exif=with_orientation(6))
    with pytest.raises(
        ImageFileError, match=r"photo.png is 8 pixels wide and 6 high, the network takes 6 by 8; .*--resize"
    ):
        read_picture(tmp_path / "photo.png", (8, 6), 1)
    assert read_picture(tmp_path / "photo.png", (4, 4), 1, "stretch").shape == (1, 4, 4)


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
def test_a_tiff_of_which_pillow_mixes_up_the_rows_is_refused(tmp_path, tag):
    Image.fromarray(STORED).save(tmp_path / "scan.tif", exif=with_orientation(tag))
    with pytest.raises(
        ImageFileError, match=r"scan.tif is an uncompressed TIFF that lies on its side; save it upright"
    ):
        read_picture(tmp_path / "scan.tif", (6, 8), 1)


# Transparency

GENERATOR = np.random.default_rng(1)
COLOURS = GENERATOR.integers(0, 256, (5, 4, 3), np.uint8)
OPACITY = GENERATOR.integers(0, 256, (5, 4, 1), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_what_is_transparent_becomes_white(tmp_path, suffix):
    path = tmp_path / f"logo.{suffix}"
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(np.concatenate([COLOURS, OPACITY], axis=2)).save(path, **options)
    share = OPACITY / 255
    expected = share * COLOURS + (1 - share) * 255
    found = read_picture(path, (5, 4), 3).numpy().transpose(1, 2, 0)
    assert np.abs(found - expected).max() <= 1  # Pillow counts in whole numbers


def test_a_transparent_colour_of_a_palette_of_grey_and_of_rgb_becomes_white(tmp_path):
    places = np.zeros((5, 4), np.uint8)
    places[1:3, 1:3] = 1
    palette = Image.new("P", (4, 5))
    palette.putdata(places.flatten().tolist())
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    palette.save(tmp_path / "palette.gif", transparency=0)
    Image.fromarray(200 * places).save(tmp_path / "grey.png", transparency=0)
    Image.fromarray(COLOURS).save(tmp_path / "rgb.png", transparency=tuple(COLOURS[0, 0].tolist()))
    red = np.where(places[..., None] == 1, np.array([255, 0, 0]), 255)
    for name in ("palette.png", "palette.gif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name, (5, 4), 3).numpy().transpose(1, 2, 0), red)
    grey = read_picture(tmp_path / "grey.png", (5, 4), 1)[0].numpy()
    np.testing.assert_array_equal(grey, np.where(places == 1, 200, 255))
    rgb = read_picture(tmp_path / "rgb.png", (5, 4), 3)
    assert rgb[:, 0, 0].tolist() == [255, 255, 255]
    assert rgb[:, 1, 1].tolist() == COLOURS[1, 1].tolist()


def test_an_opaque_picture_with_an_alpha_channel_is_left_as_it_is(tmp_path):
    Image.fromarray(COLOURS).convert("RGBA").save(tmp_path / "opaque.png")
    found = read_picture(tmp_path / "opaque.png", (5, 4), 3).numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(found, COLOURS)


@pytest.mark.parametrize("drawn", [0, 255])
def test_a_picture_of_which_white_shows_nothing_is_refused(tmp_path, drawn):
    pixels = np.full((5, 4, 4), 255, np.uint8)
    pixels[..., 3] = 0
    pixels[1:3, 1:3, 3] = drawn
    Image.fromarray(pixels).save(tmp_path / "white.png")
    with pytest.raises(ImageFileError, match=r"white.png is transparent and shows nothing on white; save it without"):
        read_picture(tmp_path / "white.png", (5, 4), 1)


# Kinds of files


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("fit", [None, "stretch"])
def test_more_than_8_bits_are_refused(tmp_path, dtype, fit):
    Image.fromarray(np.full((5, 4), 1000, dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(ImageFileError, match=r"deep.tif has pixels of more than 8 bits"):
        read_picture(tmp_path / "deep.tif", (5, 4), 1, fit)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_several_frames_or_pages_are_refused(tmp_path, suffix):
    first, *others = [Image.fromarray(np.full((5, 4), level, np.uint8)) for level in (0, 100, 200)]
    first.save(tmp_path / f"film.{suffix}", save_all=True, append_images=others)
    first.save(tmp_path / f"one.{suffix}", save_all=True)
    with pytest.raises(ImageFileError, match=rf"film.{suffix} has several frames or pages; save the one that is meant"):
        read_picture(tmp_path / f"film.{suffix}", (5, 4), 1)
    assert read_picture(tmp_path / f"one.{suffix}", (5, 4), 1).unique().tolist() == [0]


def test_of_a_telephones_two_pictures_in_one_the_first_counts(tmp_path):
    """As JPEGs with a depth map or for bright screens are made."""
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[blue])
    pixels = read_picture(tmp_path / "photo.jpg", (8, 8), 3)
    assert [round(value / 255) for value in pixels[:, 0, 0].tolist()] == [1, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_become_colours(tmp_path, suffix):
    Image.new("CMYK", (4, 5), (0, 255, 255, 0)).save(tmp_path / f"print.{suffix}")
    pixels = read_picture(tmp_path / f"print.{suffix}", (5, 4), 3)
    assert np.abs(pixels[:, 0, 0].numpy().astype(int) - [255, 0, 0]).max() <= 3


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "fax.png")
    assert read_picture(tmp_path / "fax.png", (1, 2), 1).tolist() == [[[255, 0]]]


def test_suffixes_are_those_that_can_be_read():
    suffixes = picture_suffixes()
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".webp"} <= suffixes
    assert not {".pdf", ".txt", ".npz"} & suffixes


# Sizes


def test_each_fit_does_what_it_says():
    """A picture of 8 by 4, left half black and right half white, brought to 4 by 4."""
    wide = Image.fromarray(np.repeat([[0, 255]], 4, axis=1).repeat(4, axis=0).astype(np.uint8))
    assert wide.size == (8, 4)
    for fit in ("stretch", "crop"):
        picture = np.asarray(fitted(wide, (4, 4), fit))
        assert picture.shape == (4, 4)
        assert (picture[:, 0] < 128).all()
        assert (picture[:, 3] > 128).all()
    padded = np.asarray(fitted(Image.new("L", (8, 4), 255), (4, 4), "pad"))
    np.testing.assert_array_equal(padded[:, 0], [0, 255, 255, 0])
    ring = np.zeros((4, 8), np.uint8)
    ring[:, 2:6] = 9  # the middle square
    assert np.asarray(fitted(Image.fromarray(ring), (4, 4), "crop")).tolist() == [[9] * 4] * 4
    assert fitted(wide, (4, 4), None) is wide
    assert fitted(wide, (4, 8), "crop") is wide


def test_stretching_by_two_takes_means_weighted_by_a_triangle():
    """Antialiased bilinear interpolation by two weighs four pixels by 1, 3, 3, 1."""
    row = np.array([[0, 80, 160, 240, 40, 200, 120, 8]], np.uint8)
    found = np.asarray(fitted(Image.fromarray(row), (1, 4), "stretch"))[0]
    weights = np.array([1, 3, 3, 1])
    inner = [(weights * row[0, start : start + 4]).sum() / 8 for start in (1, 3)]
    np.testing.assert_allclose(found[1:3], inner, atol=1)


def test_a_picture_without_a_file_is_read_by_the_same_rules():
    picture = Image.fromarray(STORED)
    picture.getexif()[0x0112] = 6
    np.testing.assert_array_equal(as_pixels(picture_of(picture, 1, "image 0"))[0].numpy(), UPRIGHT[6])
    with pytest.raises(ImageFileError, match="image 0 has pixels of more than 8 bits"):
        picture_of(Image.fromarray(STORED.astype(np.uint16)), 1, "image 0")


def test_paths_of_missing_and_empty_files_are_told(tmp_path):
    Path(tmp_path, "empty.png").touch()
    with pytest.raises(ImageFileError, match=r"empty.png cannot be read as an image"):
        read_picture(tmp_path / "empty.png", (5, 4), 1)
    with pytest.raises(ImageFileError, match=r"no.png does not exist"):
        read_picture(tmp_path / "no.png", (5, 4), 1)
