"""The figure that everything is drawn on: it shows names as they are. Importing it takes half a second."""

import functools
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

WIDE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
    "Hiragino Sans",
    "Malgun Gothic",
    "Microsoft YaHei",
    "Nirmala UI",
    "PingFang SC",
    "WenQuanYi Zen Hei",
)
"""Fonts with letters that matplotlib's own lacks; those that a machine has are asked after its own."""

LAST_OF_LATIN = "\u024f"


class PlainTextFigure(Figure):
    """A figure whose texts are no formulas: a dollar in the name of a class is a dollar."""

    def draw(self, renderer: Any) -> None:
        """Draw, after every text has been made plain."""
        for artist in self.findobj(Text):
            assert isinstance(artist, Text)
            artist.set_parse_math(False)
            if max(artist.get_text(), default="") > LAST_OF_LATIN:
                artist.set_fontfamily(_families())
        super().draw(renderer)


@functools.cache
def _families() -> list[str]:
    """Fonts to look for a letter in, one after the other."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]
