"""Pages that stand alone: pictures inlined, no script, nothing from the network."""

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

HOME = "primenet_lightning.runs"
"""The package whose templates all pages have: the page itself, its style, and its parts."""


@cache
def templates(package: str = HOME) -> Environment:
    """Give the templates of a package, which may extend and include those of this one.

    Args:
        package: Dotted path; its templates lie in ``templates/``, as ``*.html.j2``.

    Returns:
        Jinja's environment; what is not markup is escaped, and an unknown name is an error.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(HOME)]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def render(template: str, package: str = HOME, **values: Any) -> str:
    """Write a page.

    Args:
        template: Name of its file in the package's ``templates/``.
        package: Dotted path.
        **values: What the template names.

    Returns:
        HTML in ASCII alone, which reads the same in whatever encoding it is written.
    """
    page = templates(package).get_template(template).render(values)
    return page.encode("ascii", "xmlcharrefreplace").decode() + "\n"


def whole_page(title: str, parts: Sequence[str], more_style: str = "") -> str:
    """Write a page from ready parts.

    Args:
        title: Of the window.
        parts: HTML, one below the other.
        more_style: CSS, beside the style that all pages have.

    Returns:
        As of `render`.

    Example:
        >>> page = whole_page("Claims & results", ["<h1>Hello</h1>"])
        >>> "<title>Claims &amp; results</title>" in page, "<h1>Hello</h1>" in page
        (True, True)
    """
    return render("ready.html.j2", title=title, parts=parts, more_style=more_style)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], words: bool = False) -> Markup:
    """Write a table that scrolls where the page is too narrow for it.

    Args:
        heads: Of the columns.
        rows: Values, as many each.
        words: Whether the cells are sentences: then it has a class of that name, and each cell its column's head.

    Returns:
        HTML.
    """
    return _part("table", heads, rows, words)


def image(data: bytes, kind: str, caption: str) -> Markup:
    """Write a picture into the page itself.

    Args:
        data: Of the file.
        kind: ``"png"``, ``"gif"`` or ``"svg"``.
        caption: What is said where it is not seen.

    Returns:
        HTML.
    """
    return _part("image", inlined(data, kind), caption)


def _part(macro: str, *arguments: Any) -> Markup:
    parts: Any = templates().get_template("parts.html.j2").module
    return Markup(getattr(parts, macro)(*arguments).strip())


def inlined(data: bytes, kind: str) -> str:
    """Turn a picture into an address that is the picture itself.

    Args:
        data: Of the file.
        kind: ``"png"``, ``"gif"`` or ``"svg"``.

    Returns:
        For the ``src`` of an image.

    Example:
        >>> inlined(b"<svg/>", "svg")
        'data:image/svg+xml;base64,PHN2Zy8+'
    """
    if kind == "svg":
        kind = "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
