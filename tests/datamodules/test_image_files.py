from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from primenet_lightning.datamodules import ImageFileError, ImageFiles


@pytest.fixture
def folder(tmp_path):
    """Three good pictures, 5 wide and 4 high, and a text that is not one."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(generator.integers(0, 256, (4, 5), dtype=np.uint8)).save(tmp_path / "a.BMP")
    Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)).convert("P").save(tmp_path / "c.gif")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_folder_is_read_sorted_and_converted(folder, channels, mode):
    files = ImageFiles(folder, (4, 5), channels)
    images, paths, errors = files.load()
    assert [Path(path).name for path in paths] == ["a.BMP", "b.png", "c.gif"]
    assert errors == ()
    for position, path in enumerate(paths):
        picture = Image.open(path).convert(mode)
        for y in range(4):
            for x in range(5):
                pixel = picture.getpixel((x, y))
                assert images[position, :, y, x].tolist() == (list(pixel) if channels == 3 else [pixel])
        image, item_path = files[position]
        assert item_path == path
        assert image.equal(images[position])


def test_bad_files_do_not_stop_the_others(folder):
    good = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    Image.new("RGB", (28, 30)).save(folder / "large.png")
    Image.fromarray(np.full((4, 5), 1000, dtype=np.uint16)).save(folder / "deep.png")
    names = ["large.png", "b.png", "missing.png", "cut.png", "notes.txt", "deep.png"]
    files = ImageFiles([folder / name for name in names], image_size=(4, 5), in_channels=1)
    images, paths, errors = files.load()
    assert [Path(path).name for path in paths] == ["b.png"]
    assert images.shape == (1, 1, 4, 5)
    remedies = {
        "large.png": "is 28 pixels wide and 30 high, the network takes 5 by 4; resize it first",
        "missing.png": "does not exist; check the path",
        "cut.png": "cannot be read as an image",
        "notes.txt": "cannot be read as an image",
        "deep.png": "has pixels of more than 8 bits",
    }
    assert [Path(path).name for path, _ in errors] == list(remedies)
    for path, message in errors:
        assert message.startswith(path)
        assert remedies[Path(path).name] in message
    with pytest.raises(ImageFileError, match=r"large\.png is 28 pixels wide"):
        files[0]


def test_no_readable_file_gives_no_images(folder):
    images, paths, errors = ImageFiles([folder / "notes.txt"], (4, 5), 3).load()
    assert images.shape == (0, 3, 4, 5)
    assert (len(paths), len(errors)) == (0, 1)


def test_one_file_is_enough(folder):
    assert len(ImageFiles(str(folder / "b.png"), (4, 5), 3)) == 1


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ImageFileError, match="has no image files"):
        ImageFiles(tmp_path, (4, 5), 1)
    with pytest.raises(ImageFileError, match="nowhere does not exist"):
        ImageFiles(tmp_path / "nowhere", (4, 5), 1)
    with pytest.raises(ImageFileError, match="paths is an empty list"):
        ImageFiles([], (4, 5), 1)
    with pytest.raises(ValueError, match="in_channels=4 fits no image file; give 1"):
        ImageFiles(tmp_path, (4, 5), 4)
