"""Draws the twenty digits beside this file: ten by lines of a pen, ten scans of scikit-learn, enlarged.

python tests/data/digits/draw.py
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SIDE, PEN = 112, 11


def arc(x, y, width, height, start, end):
    """Points on an ellipse, angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * step / 24) for step in range(25)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


STROKES = {
    0: [arc(56, 56, 24, 36, 0, 360)],
    1: [[(46, 34), (60, 20), (58, 92)]],
    2: [[*arc(55, 40, 23, 20, 190, 380), (34, 90), (80, 88)]],
    3: [[*arc(54, 38, 20, 18, 200, 440), *arc(54, 73, 24, 19, -80, 160)]],
    4: [[(62, 20), (30, 66), (84, 64)], [(68, 42), (64, 94)]],
    5: [[(78, 22), (42, 22), (38, 52), *arc(54, 70, 24, 22, -120, 140)]],
    6: [[(70, 20), (46, 48), *arc(55, 71, 20, 20, 200, -165)]],
    7: [[(32, 24), (80, 22), (52, 94)]],
    8: [arc(56, 38, 17, 18, 0, 360), arc(56, 74, 21, 19, 0, 360)],
    9: [[*arc(54, 42, 20, 20, 10, -340), (72, 44), (64, 94)]],
}


def drawn(strokes):
    """Dark on light, with the round ends of a pen."""
    picture = Image.new("L", (SIDE, SIDE), 248)
    pen = ImageDraw.Draw(picture)
    for stroke in strokes:
        pen.line(stroke, fill=24, width=PEN, joint="curve")
        for x, y in (stroke[0], stroke[-1]):
            pen.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), fill=24)
    return picture


def enlarged(scan):
    """Light on black, with a margin."""
    pixels = Image.fromarray((scan * 255 / 16).round().astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    picture = Image.new("L", (120, 136))
    picture.paste(pixels, (12, 20))
    return picture


def main():
    for digit, strokes in STROKES.items():
        drawn(strokes).save(HERE / f"drawn_{digit}.png", optimize=True)
    digits = load_digits()
    for digit in range(10):
        first = np.flatnonzero(digits.target == digit)[0]
        enlarged(digits.images[first]).save(HERE / f"scan_{digit}.png", optimize=True)


if __name__ == "__main__":
    main()
