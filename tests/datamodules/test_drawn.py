"""Pictures of digits in the form of MNIST's scans."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from primenet_lightning.datamodules.drawn import as_scan
from primenet_lightning.datamodules.pictures import read_picture


def ink_on(ground, ink, box, size=(90, 120)):
    picture = Image.new("L", size, ground)
    picture.paste(ink, box)
    return picture


def test_a_picture_of_the_size_is_a_scan_and_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    pixels[0] = pixels[-1] = pixels[:, 0] = pixels[:, -1] = 3
    scan = Image.fromarray(pixels)
    assert as_scan(scan, (28, 28)) is scan
    np.testing.assert_array_equal(np.asarray(as_scan(ImageOps.invert(scan), (28, 28))), pixels)


@pytest.mark.parametrize(("ground", "ink"), [(255, 0), (0, 255), (200, 90), (60, 180)])
def test_ink_fills_the_inner_twenty_pixels_in_the_middle_whatever_the_ground(ground, ink):
    scan = np.asarray(as_scan(ink_on(ground, ink, (60, 10, 70, 50)), (28, 28)))
    rows, columns = np.flatnonzero(scan.max(1)), np.flatnonzero(scan.max(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (4, 23, 12, 16)  # 40 by 10 becomes 20 by 5
    assert scan.max() == 255


def test_the_centre_of_mass_lies_in_the_middle():
    picture = ink_on(0, 255, (10, 10, 20, 90))
    picture.paste(255, (20, 70, 60, 90))  # an L, heavy below
    scan = np.asarray(as_scan(picture, (28, 28)), dtype=float)
    centre = [(scan.sum(1 - axis) * (np.arange(28) + 0.5)).sum() / scan.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 14], abs=0.6)


def test_scans_of_few_pixels_are_filled_to_the_edge():
    scan = np.asarray(as_scan(ink_on(255, 0, (30, 20, 40, 100)), (8, 8)))
    assert np.flatnonzero(scan.max(1)).tolist() == list(range(8))


def test_a_blank_picture_and_one_of_a_single_pixel_are_scans_too(tmp_path):
    assert np.asarray(as_scan(Image.new("L", (5, 9), 130), (28, 28))).max() == 0
    assert as_scan(Image.new("RGB", (1, 1), "white"), (28, 28)).mode == "RGB"
    ink_on(255, 0, (0, 0, 1, 120)).save(tmp_path / "line.png")
    assert read_picture(tmp_path / "line.png", (28, 28), 1, fit="digit").shape == (1, 28, 28)
