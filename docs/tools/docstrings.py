"""For mkdocstrings: docstrings as they stand in the code, turned into what its Markdown understands.

Where Google's style leaves it open they follow Sphinx in the code: equations are ``:math:`` and ``.. math::``.
"""

import re
import textwrap
from typing import Any

import griffe

DISPLAY = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<first>.*)\n(?P<rest>(?:(?P=indent) +\S.*\n|\s*\n(?=(?P=indent) +\S))*)",
    re.MULTILINE,
)


class Markdown(griffe.Extension):
    """Equations between dollars; the section ``Example``, which griffe takes for a note, as ``Examples``."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of a module, class, function or attribute once it was read."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    r"""Rewrite what is Sphinx's.

    Example:
        >>> to_markdown("the least, :math:`\\arg\\min_k L_k`")
        'the least, $\\arg\\min_k L_k$'
    """
    text = DISPLAY.sub(_display, text + "\n").rstrip("\n")
    text = re.sub(r":math:`([^`]*)`", lambda found: f"${' '.join(found[1].split())}$", text)
    return re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


def _display(found: re.Match[str]) -> str:
    equation = " ".join(textwrap.dedent(f"{found['first']}\n{found['rest']}").split())
    return f"{found['indent']}$$\n{found['indent']}{equation}\n{found['indent']}$$\n"
