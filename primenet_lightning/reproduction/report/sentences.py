"""What a report says in words: templates with one macro a sentence."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from primenet_lightning.reproduction.report.measurements import MEAN, Measured, between, listed, written


def cell(text: str) -> str:
    """Text that Markdown takes for nothing else, on one line."""
    text = " ".join(text.split())
    for sign in "\\|*_`<>[]":
        text = text.replace(sign, f"\\{sign}")
    return text


@cache
def words() -> Environment:
    """The templates of plain text and Markdown; an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("primenet_lightning.reproduction.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "cell": cell,
        "between": between,
        "listed": listed,
        "written": written,
        "show": Measured.show,
    }
    environment.filters["percent"] = lambda share: f"{100 * share:.0f}"
    environment.globals["MEAN"] = MEAN
    return environment


def macros(template: str, **facts: Any) -> Any:
    """The macros of a file in ``templates/``, each an attribute, which see the facts."""
    return words().get_template(f"{template}.j2").make_module(facts)


def say(template: str, sentence: str, **facts: Any) -> str:
    """Write the sentence of a macro on one line; it is empty where there is nothing to say."""
    text: str = getattr(macros(template, **facts), sentence)()
    return " ".join(text.split())
