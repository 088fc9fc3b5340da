"""The model card of a run: what a network is for, how it was made, how often it is wrong, in plain English."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from primenet_lightning.runs.data_facts import FACTS
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.interval import wilson
from primenet_lightning.runs.page import HOME
from primenet_lightning.runs.recipe import recipe_rows
from primenet_lightning.runs.summary import title_of

FIRST = 2000
"""Test images whose wrong answers are counted apart, so that a short test can count them again."""


class StoredWeights(NamedTuple):
    """Weights without code, as ``save_pretrained`` writes them, measured on the test images.

    Attributes:
        size: Of their file, in bytes.
        dtype: That they are stored in.
        parameters: How many there are.
        images: Test images that were answered.
        wrong: How many of these wrongly.
        wrong_first: How many of the first 2,000 wrongly.
    """

    size: int
    dtype: str
    parameters: int
    images: int
    wrong: int
    wrong_first: int


class Error(NamedTuple):
    """A test error, as it is said.

    Attributes:
        percent: Of the test images.
        images: How many there are; None if nobody knows.
        wrong: How many were answered wrongly; None if nobody knows.
        low: Lower end of the 95 % interval, in percent; None if nobody knows.
        high: Its upper end.
    """

    percent: float
    images: int | None
    wrong: int | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, percent: float, images: int | None) -> "Error":
        """Say how sure an error is.

        Args:
            percent: Of the test images.
            images: How many there are; None if nobody knows.

        Returns:
            With its interval by Wilson's formula.

        Example:
            >>> error = Error.of(0.43, 10_000)
            >>> error.wrong, round(error.low, 2), round(error.high, 2)
            (43, 0.32, 0.58)
        """
        if images is None:
            return cls(percent, None, None, None, None)
        low, high = wilson(percent, images)
        return cls(percent, images, round(percent / 100 * images), low, high)


def card_of(
    run: RunFolder,
    description: Mapping[str, Any],
    name: str | None = None,
    licence: str | None = None,
    stored: StoredWeights | None = None,
) -> str:
    """Write the card of a run.

    Args:
        run: A finished one.
        description: Of its data, see `ImageDataModule.description`.
        name: What the network is called; None is the name of the folder.
        licence: Of the weights; None says that nobody has stated one.
        stored: The weights that the card goes with, where they are not the run's own.

    Returns:
        Markdown.

    Raises:
        FileNotFoundError: If the folder is no run's.
        ValueError: If the run has not finished.
    """
    run = RunFolder.existing(run)
    summary = run.read_summary()
    if not summary:
        raise ValueError(
            f"{run.path} has no summary.json: the run has not finished; go on with it (--resume {run.path})"
        )
    config_text = run.config.read_text(encoding="utf-8").strip()
    config = yaml.safe_load(config_text)
    facts = FACTS.get(summary["dataset"])
    images = summary.get("test_images", facts.test_images if facts else None)
    errors = [("test error", Error.of(summary["test_error"], images))]
    for views, title in VIEWS.items():
        if f"test_error_{views}" in summary:
            errors.append((f"test error, {title}", Error.of(summary[f"test_error_{views}"], images)))
    page = (
        _words()
        .get_template("card.md.j2")
        .render(
            name=name or run.path.resolve().name,
            title=title_of(summary),
            summary=summary,
            facts=facts,
            description=description,
            pictures=pictures_in_words(description),
            errors=errors,
            recipe=recipe_rows(config),
            config=config_text,
            seed=summary["seed"],
            licence=licence,
            stored=stored,
            stored_error=None if stored is None else Error.of(100 * stored.wrong / stored.images, stored.images),
            first=FIRST,
        )
    )
    return page.rstrip("\n") + "\n"


VIEWS = {
    "flips": "answers to the image and its mirror image averaged",
    "shifts": "answers to shifted images averaged",
    "flips_shifts": "answers to shifted and mirrored images averaged",
}
"""Over which views of a test image answers were averaged."""

FITS = {
    "stretch": "A picture of another size is stretched to {width} by {height} pixels, its proportions changed.",
    "crop": "A picture of another size is cut to its middle in the proportions {width} to {height}, and scaled to "
    "{width} by {height} pixels.",
    "pad": "A picture of another size is scaled to {width} by {height} pixels, with black bars where its proportions "
    "differ.",
    "digit": "The network knows light digits on black. Dark ink on a light ground is inverted: the median along the "
    "picture's edge tells which it is. A picture of {width} by {height} pixels is then taken as it is. In one of "
    "another size the ground becomes black and the strongest ink white; what lies around the ink is cut off, and the "
    "rest is scaled and put with its centre of mass in the middle, as the data set's scans are. It must show one "
    "digit, upright, and nothing else.",
}
"""What is done to pictures that are given to ``primenet predict``."""

REFUSED = "A picture of another size than {width} by {height} pixels is refused, unless `--fit` says how it is resized."


def pictures_in_words(description: Mapping[str, Any]) -> list[str]:
    """Say how pictures are treated that a network is given.

    Args:
        description: Of its data.

    Returns:
        Sentences.

    Example:
        >>> grey = {"in_channels": 1, "picture_size": [28, 28], "image_size": [28, 28], "fit": None}
        >>> pictures_in_words(grey)[1]
        'Colours become grey: RGB, RGBA and pictures with a palette are read as well.'
    """
    height, width = description.get("picture_size") or description["image_size"]
    colours = "Colours become grey: RGB, RGBA and pictures with a palette are read as well."
    if description["in_channels"] == 3:
        colours = "Grey pictures, RGBA and those with a palette become RGB."
    fit = FITS.get(description.get("fit") or "", REFUSED)
    return [
        "A picture is turned as its EXIF tag says, and what is transparent becomes white.",
        colours,
        fit.format(width=width, height=height),
        "Refused, in a sentence: what is no picture, has more than 8 bits a colour or several frames, or shows nothing "
        "on white.",
    ]


@cache
def _words() -> Environment:
    """The templates of Markdown; an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader(HOME), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["cell"] = _cell
    return environment


def _cell(value: Any) -> str:
    """A value as it stands in a table of Markdown."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
