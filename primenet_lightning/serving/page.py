"""The demo page: draw a digit or drop an image, and see what each capsule makes of it."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from primenet_lightning.datamodules.pictures import Fit, ImageFileError, as_pixels, fitted, picture_of
from primenet_lightning.datamodules.preprocessing import Preprocess
from primenet_lightning.figures.feature_maps import tiled
from primenet_lightning.models.pretrained import needs
from primenet_lightning.runs.page import inlined, templates
from primenet_lightning.serving.looking import LocalVerdict, look
from primenet_lightning.training.learner import LocalLearner

if TYPE_CHECKING:
    from gradio import Blocks

PACKAGE = "primenet_lightning.serving"
CHANNELS = 4
"""How many channels of a map are shown, the strongest."""

SIDE = 160
"""Pixels of a shown map, at least."""

STYLE = """
.gradio-container { max-width: 1100px !important; }
"""


class Demo:
    """What the page shows of an image, without the page.

    Args:
        model: That knows its data, in evaluation mode.
        name: What it is called.

    Example:
        >>> from primenet_lightning import pretrained
        >>> html = Demo(pretrained("digits"), "digits").answer(None, 0.9)
        >>> "Draw a digit, or drop an image" in html
        True
    """

    def __init__(self, model: LocalLearner, name: str) -> None:
        assert model.data_description is not None
        self.model = model
        self.name = name
        self.described = model.data_description
        self.preprocess = Preprocess.of(self.described)
        self.classes: Sequence[str] = self.described["class_names"]

    @property
    def is_grey(self) -> bool:
        """Whether it takes what is drawn."""
        return bool(self.described["in_channels"] == 1)

    @property
    def fit(self) -> Fit:
        """How pictures are brought to the network's size."""
        given: Fit | None = self.described["fit"]
        if given is not None:
            return given
        return "digit" if self.is_grey else "crop"

    def answer(self, picture: Any, threshold: float) -> str:
        """Show what the network makes of a picture.

        Args:
            picture: Of Pillow; or what a sketchpad gives; None is nothing yet.
            threshold: For early exit, see `look`.

        Returns:
            HTML.
        """
        if isinstance(picture, dict):
            picture = picture.get("composite")
        if picture is None or _is_untouched(picture):
            return self._render("Draw a digit, or drop an image." if self.is_grey else "Drop an image.")
        try:
            upright = picture_of(picture, self.described["in_channels"], "The picture")
            pixels = as_pixels(fitted(upright, self.preprocess.picture_size, self.fit))
        except ImageFileError as error:
            return self._render(str(error))
        seen = look(self.model, self.preprocess(pixels[None]), threshold)
        shown = pixels.permute(1, 2, 0).squeeze(2).numpy()
        return self._render(
            None,
            picture=_png(Image.fromarray(shown)),
            ranking=self._ranking(seen.probabilities, 3),
            verdicts=[self._card(verdict) for verdict in seen.verdicts],
            leaves=_exit_in_words(seen.exit, seen.exits, seen.share, threshold),
        )

    def _render(self, message: str | None, **values: Any) -> str:
        return templates(PACKAGE).get_template("look.html.j2").render(message=message, name=self.name, **values)

    def _ranking(self, probabilities: Tensor, count: int) -> list[tuple[str, float]]:
        largest = probabilities.topk(min(count, len(probabilities)))
        names = [self.classes[index] for index in largest.indices.tolist()]
        return list(zip(names, largest.values.tolist(), strict=True))

    def _card(self, verdict: LocalVerdict) -> dict[str, Any]:
        """One capsule, for the template."""
        says = None
        if verdict.probabilities is not None:
            says = self._ranking(verdict.probabilities, 1)[0]
        return {"name": verdict.name, "goes_on": verdict.goes_on, "says": says, "picture": _map_picture(verdict.maps)}


def build(demo: Demo) -> "Blocks":
    """Build the page; nothing is served yet.

    Args:
        demo: What it shows.

    Returns:
        Gradio's blocks; ``launch()`` serves them.

    Raises:
        ValueError: If gradio is not installed.
    """
    needs("gradio", "demo")
    import gradio as gr

    with gr.Blocks(title=f"PrimeNet: {demo.name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {demo.name}\nEvery part learned by itself, and has a verdict of its own.")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                inputs = _inputs(demo)
                threshold = gr.Slider(0.1, 1.0, 0.9, step=0.01, label="It leaves where this probability is reached")
            with gr.Column(scale=3, min_width=280):
                shown = gr.HTML(demo.answer(None, 0.9))
        for given in inputs:
            given.change(demo.answer, [given, threshold], shown, show_progress="hidden")
            threshold.release(demo.answer, [given, threshold], shown, show_progress="hidden")
    blocks: Blocks = page
    return blocks


def _inputs(demo: Demo) -> list[Any]:
    """Where a picture comes from: one tab each."""
    import gradio as gr

    with gr.Tabs():
        pictures: list[Any] = []
        if demo.is_grey:
            with gr.Tab("Draw"):
                brush = gr.Brush(default_size=18, colors=["#000000"], color_mode="fixed")
                pad = gr.Sketchpad(
                    type="pil", brush=brush, layers=False, canvas_size=(280, 280), fixed_canvas=True, height=420,
                    transforms=(), label="Use the pen", show_label=True,
                )  # fmt: skip
                pictures.append(pad)
        with gr.Tab("Image"):
            pictures.append(gr.Image(type="pil", image_mode=None, sources=["upload", "clipboard"], label="An image"))
    return pictures


def _is_untouched(picture: Image.Image) -> bool:
    """Whether nothing has been drawn on it."""
    if picture.mode != "RGBA":
        return False
    return picture.getchannel("A").getextrema() == (0, 0)


def _exit_in_words(exit_taken: int | None, exits: int, share: float | None, threshold: float) -> str:
    """Say where the image leaves."""
    if exit_taken is None or share is None:
        return "This network has no exits to leave by."
    if exit_taken == exits - 1:
        return f"No exit on the way reaches {threshold:.2f}, so the whole network answers."
    return f"It would leave at exit {exit_taken + 1} of {exits}, after {share:.0%} of the network's multiply-adds."


def _map_picture(maps: Tensor) -> str:
    """The strongest channels, each from its least value, dark, to its largest, bright."""
    strongest = maps.abs().mean((1, 2)).topk(min(CHANNELS, len(maps))).indices
    grid = tiled(maps[strongest]).numpy()
    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    scaled = (grid - low) / max(high - low, 1e-6)
    colours = (255 * colormaps["viridis"](np.ma.masked_invalid(scaled))).astype(np.uint8)
    factor = max(1, SIDE // max(grid.shape))
    picture = Image.fromarray(colours)
    return _png(picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST))


def _png(picture: Image.Image) -> str:
    """A picture as an address that is the picture itself."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return inlined(file.getvalue(), "png")
