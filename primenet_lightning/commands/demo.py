"""``primenet demo``: a page on this machine that shows what a network makes of an image."""

import os
from collections.abc import Sequence

from primenet_lightning.commands.describing import add_description
from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.commands.predict import add_model, model_of

DEFAULT = "mnist-deep"


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Command line after ``demo``.

    Returns:
        0, once the page is closed.

    Raises:
        ValueError: If gradio is not installed, or the network is none.
    """
    options = _parser().parse_args(list(args))
    from primenet_lightning.models.pretrained import needs

    needs("gradio", "demo")
    if options.ckpt is None and options.model is None:
        options.model = DEFAULT
    model = model_of(options)

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # or it asks a server for news before it serves anything
    from gradio import themes

    from primenet_lightning.serving.page import STYLE, Demo, build

    page = build(Demo(model, options.model or options.ckpt))
    fonts = themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # of the reader's own machine
    page.launch(
        server_name="127.0.0.1",
        server_port=options.port,
        inbrowser=options.open,
        share=False,
        theme=fonts,
        css=STYLE,
        footer_links=[],
    )
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="primenet demo",
        description="Serve a page on this machine: draw a digit or drop an image, and see each capsule's verdict and "
        "map, which goes on, and where the image would leave. Ctrl-C ends it.",
    )
    add_model(parser)
    add_description(parser)
    parser.add_argument("--port", type=int | None, default=None, help="Of the page. Default: the first free from 7860.")
    parser.add_argument("--open", action="store_true", help="Open the page in a browser.")
    return parser
