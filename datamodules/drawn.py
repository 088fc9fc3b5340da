"""Drawn and photographed digits, brought into the form of MNIST's scans: light on black, of one size, in the middle."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]
"""Grey, or ink, ``(height, width)``."""

LIGHT_GROUND = 127
"""Of pixels from 0 to 255: where the median along the edge is above it, the ink is dark, and the picture inverted."""

FAINT = 0.2
"""Share of the strongest ink below which a pixel counts as ground, so that the grain of paper is no ink."""

MARGIN = 1 / 7
"""Of the side, free around a digit on each of its sides, as in MNIST: 20 of 28 pixels are its box."""

SMALL = 16
"""Scans of fewer pixels are filled to their edges, as scikit-learn's digits are."""


def as_scan(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring a picture of one digit into the form of MNIST.

    Dark ink on a light ground is inverted; the median along the edge tells the ground. A picture that has the size
    already is taken for a scan, and nothing else is done. Of others the ground becomes black and the strongest ink
    white, what is around the ink is cut off, and the rest is scaled to the inner 20 of 28 pixels with its proportions,
    and put so that its centre of mass lies in the middle.

    Args:
        image: Of mode L or RGB.
        size: Height and width in pixels.

    Returns:
        A picture of the same mode and of that size.

    Example:
        >>> paper = Image.new("L", (90, 120), 255)
        >>> paper.paste(0, (40, 20, 50, 100))  # a one
        >>> scan = np.asarray(as_scan(paper, (28, 28)))
        >>> scan.shape, int(scan[14, 14]), int(scan[0, 0]), int((scan.max(1) > 0).sum())
        ((28, 28), 255, 0, 20)
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    is_dark_on_light = float(np.median(edge)) > LIGHT_GROUND
    if image.size == (size[1], size[0]):
        if not is_dark_on_light:
            return image
        return _picture(255 - grey, image.mode)
    ground = np.median(edge).astype(np.float32)
    ink = ground - grey if is_dark_on_light else grey - ground
    strongest = float(ink.max())
    if strongest <= 0:
        return Image.new(image.mode, (size[1], size[0]))
    ink = ink.clip(0) / strongest
    return _picture(_centred(_scaled(_cut_out(ink), size), size), image.mode)


def _cut_out(ink: Pixels) -> Image.Image:
    """What lies within the box around the ink; from 0 to 255."""
    ink = np.where(ink < FAINT, 0, ink)
    rows = np.flatnonzero(ink.max(1))
    columns = np.flatnonzero(ink.max(0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _picture(255 * box, "L")


def _scaled(box: Image.Image, size: tuple[int, int]) -> Pixels:
    """The box with its longer side as long as the ink may be; thin lines are as white as thick ones."""
    shorter = min(size)
    inner = shorter if shorter < SMALL else shorter - 2 * round(MARGIN * shorter)
    factor = inner / max(box.size)
    width, height = (max(1, round(factor * side)) for side in box.size)
    ink = np.asarray(box.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
    return np.asarray(ink * (255 / max(1.0, float(ink.max()))), dtype=np.float32)


def _centred(ink: Pixels, size: tuple[int, int]) -> Pixels:
    """The ink on black, its centre of mass in the middle as far as there is room."""
    scan = np.zeros(size, dtype=np.float32)
    mass = ink.sum()
    corner: list[int] = []
    for axis in (0, 1):
        weights = ink.sum(1 - axis)
        centre = float((weights * (np.arange(len(weights)) + 0.5)).sum() / mass)
        room = size[axis] - ink.shape[axis]
        corner.append(min(max(round(size[axis] / 2 - centre), 0), room))
    top, left = corner
    scan[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return scan


def _picture(pixels: Pixels, mode: str) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).convert(mode)
