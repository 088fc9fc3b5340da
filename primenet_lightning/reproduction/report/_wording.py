"""How numbers, lists and sentences are written."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

MEAN = "mean ± sample standard deviation over the seeds (their number)"
"""What `Measured.show` writes."""


def written(value: float, form: str) -> str:
    """Format a number, without the powers of ten that ``".3g"`` has for large ones, and without a negative zero.

    Example:
        >>> written(1234.5, ".3g"), written(2.602, ".3g"), written(-0.001, "+.2f")
        ('1,234', '2.6', '+0.00')
    """
    text = format(value, ",.0f" if form == ".3g" and abs(value) >= 100 else form)
    if text.startswith("-") and not text.strip("-0."):
        text = format(0.0, form)
    return text


def listed(words: Sequence[str]) -> str:
    """Write a list as in a sentence.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def between(numbers: Sequence[int]) -> str:
    """Write whole numbers that should all be the same: the number; both ends if they differ; nothing of none.

    Example:
        >>> between([1294, 1294]), between([20, 50]), between([])
        ('1,294', '20 to 50', '')
    """
    if not numbers:
        return ""
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def capitalised(text: str) -> str:
    """Begin with a capital, and leave the rest as it is."""
    return f"{text[0].upper()}{text[1:]}"


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
    environment.filters |= {"cell": cell, "between": between, "listed": listed, "written": written}
    environment.globals["MEAN"] = MEAN
    return environment


def macros(template: str, **facts: Any) -> Any:
    """The macros of a file in ``templates/``, each an attribute, which see the facts."""
    return words().get_template(f"{template}.j2").make_module(facts)


def say(template: str, sentence: str, **facts: Any) -> str:
    """Write the sentence of a macro on one line; it is empty where there is nothing to say."""
    text: str = getattr(macros(template, **facts), sentence)()
    return " ".join(text.split())
