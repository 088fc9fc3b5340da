"""The networks that the package brings along, and what their cards say of them."""

import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from primenet_lightning import pretrained, pretrained_names
from primenet_lightning.analysis.answering import wrong_answers_of
from primenet_lightning.analysis.prediction import predict_files
from primenet_lightning.datamodules import DigitsDataModule, MNISTDataModule
from primenet_lightning.models.pretrained_config import CONFIG, WEIGHTS
from primenet_lightning.models.shipped import CARD, HOME, card_of
from primenet_lightning.runs.interval import wilson

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "tests" / "data" / "digits"
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def deep():
    return pretrained("mnist-deep")


def test_each_has_its_card_also_beside_the_pages():
    assert {"cifar10-small", "digits", "mnist-deep"} <= {*pretrained_names()}
    page = (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
    for name in pretrained_names():
        assert card_of(name) == (ROOT / "docs" / "cards" / f"{name}.md").read_text(encoding="utf-8")
        assert f"](cards/{name}.md)" in page
        assert sorted(path.name for path in (HOME / name).iterdir()) == [CARD, CONFIG, WEIGHTS]


def test_all_together_are_small():
    assert sum(path.stat().st_size for path in HOME.rglob("*")) < MOST_BYTES


def test_names_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"name='mnist-dep' is no pretrained network .*; did you mean mnist-deep\?"):
        pretrained("mnist-dep")
    with pytest.raises(ValueError, match=r"name='\.\./nn' .*; use one of cifar10-small, digits, mnist-deep"):
        card_of("../nn")


def counted_in(card):
    """Images and wrong answers of the weights as they are stored, and the wrong among the first 2,000."""
    wrong, images = re.search(r"as they are stored\*\* \| [\d.]+ % \| (\d+) of ([\d,]+)", card).groups()
    first = re.search(r"Of the first [\d,]+ test images (\d+) are answered wrongly", card)[1]
    return int(wrong), int(images.replace(",", "")), int(first)


@pytest.mark.parametrize("name", pretrained_names())
def test_the_interval_of_a_card_is_that_of_its_wrong_answers(name):
    wrong, images, _ = counted_in(card_of(name))
    low, high = wilson(100 * wrong / images, images)
    assert f"{100 * wrong / images:.2f} % | {wrong} of {images:,} | {low:.2f} to {high:.2f} % |" in card_of(name)


def test_the_error_of_the_digits_card_is_found_again():
    data = DigitsDataModule()
    data.setup("test")
    wrong = wrong_answers_of(pretrained("digits"), data.test_dataset.images, data.test_dataset.labels)
    assert (int(wrong.sum()), len(wrong)) == counted_in(card_of("digits"))[:2]


@pytest.mark.skipif("PRIMENET_DATA" not in os.environ, reason="needs MNIST's files")
def test_the_error_of_the_mnist_card_is_found_again_on_the_first_images(deep):
    data = MNISTDataModule()
    test = data.torchvision_dataset(data.root, train=False)
    wrong = wrong_answers_of(deep, test.data[:2000, None], test.targets[:2000])
    assert int(wrong.sum()) == counted_in(card_of("mnist-deep"))[2]


# -- twenty digits, drawn and scanned ----------------------------------------------------------------------------------


def transparent(picture):
    """Black ink on nothing."""
    is_light = picture.getpixel((0, 0)) > 127
    ink = ImageOps.invert(picture) if is_light else picture
    clear = Image.new("RGBA", picture.size)
    clear.putalpha(ink)
    return clear


MODES = {
    "grey": lambda picture: picture,
    "inverted": ImageOps.invert,
    "RGB": lambda picture: picture.convert("RGB"),
    "RGBA": lambda picture: picture.convert("RGBA"),
    "transparent": transparent,
    "palette": lambda picture: picture.convert("P"),
    "two colours": lambda picture: ImageOps.colorize(picture, "navy", "beige"),
    "bits": lambda picture: picture.convert("1", dither=Image.Dither.NONE),
    "odd size": lambda picture: ImageOps.expand(picture, (7, 31, 60, 5), picture.getpixel((0, 0))).resize((301, 217)),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_deep_one_is_right_on_twenty_digits_in_each_mode(deep, tmp_path, mode):
    for path in DIGITS.glob("*.png"):
        with Image.open(path) as picture:
            MODES[mode](picture).save(tmp_path / path.name)
    answers = list(predict_files(deep, [tmp_path], batch_size=20))
    assert len(answers) == 20
    assert [Path(answer.path).stem[-1] for answer in answers] == [answer.label for answer in answers]


def test_it_computes_in_float32_and_leaves_early_by_what_it_kept(deep):
    from primenet_lightning.serving import EarlyExit

    assert {parameter.dtype for parameter in deep.parameters()} == {torch.float32}
    assert EarlyExit(deep, 0.9).exits.num_exits == 4
