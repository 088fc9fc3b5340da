"""For MkDocs: equations as MathML, drawings in the page's own colours, and the commands' own help.

All of it happens while the site is built, so that a page loads nothing from the internet and runs no script to be read.
"""

import contextlib
import functools
import html
import io
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
DRAWING = re.compile(r'<img alt="(?P<alt>[^"]*)" src="(?P<path>[^":]*\.svg)"[^>]*>')
HELP = re.compile(r"^( *)<!-- help: (.*) -->$", re.MULTILINE)
WIDTH = 76
"""Of the commands' help, in characters: it fits a page without being scrolled on a desktop."""


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Put the help of ``primenet COMMAND`` where a page says ``<!-- help: COMMAND -->``."""
    return HELP.sub(_help, markdown)


def _help(match: re.Match[str]) -> str:
    return textwrap.indent(f"```text\n{command_help(*match[2].split())}\n```", match[1])


def on_page_content(content: str, page: Any, config: Any, **kwargs: Any) -> str:
    """Write equations as MathML, and drawings into the page, where its colours reach them."""
    folder = Path(config.docs_dir, page.file.src_uri).parent
    content = EQUATION.sub(_equation, content)
    return DRAWING.sub(lambda match: _drawing(folder / match["path"], match), content)


def _equation(match: re.Match[str]) -> str:
    in_a_block = match[1] == "div"
    latex = html.unescape(match[3]).strip().replace(r"\arg", r"\mathrm{arg}\,")
    mathml = convert(latex, display="block" if in_a_block else "inline")
    if "\\" in mathml:  # it prints commands that it does not know
        raise ValueError(f"the equation {latex!r} has a command that latex2mathml does not know; write it otherwise")
    return f'<div class="equation">{mathml}</div>' if in_a_block else mathml


def _drawing(path: Path, image: re.Match[str]) -> str:
    """The drawing itself, if it is made for the page's colours; a chart on white stays a picture."""
    if path.parent.name == "charts":
        return image[0]
    alternative = image["alt"]
    return path.read_text(encoding="utf-8").replace("<svg ", f'<svg role="img" aria-label="{alternative}" ', 1)


@functools.cache
def command_help(*args: str) -> str:
    """Ask the command itself.

    Args:
        *args: The command's name, and perhaps more of its line.

    Returns:
        What ``primenet COMMAND --help`` prints.
    """
    from primenet_lightning.commands.main import main

    printed = io.StringIO()
    # argparse looks at the terminal, of which it leaves two columns free, and at the name of the program
    terminal, program = {"COLUMNS": str(WIDTH + 2)}, ["primenet"]
    with (
        mock.patch.dict(os.environ, terminal),
        mock.patch.object(sys, "argv", program),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*args, "--help"])
    return "".join(letter for letter in printed.getvalue().rstrip() if letter.isprintable() or letter == "\n")
