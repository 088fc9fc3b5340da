"""For mkdocstrings: docstrings as they stand in the code, turned into what its Markdown understands.

Where Google's style leaves it open they follow Sphinx in the code: equations are ``:math:`` and ``.. math::``.
"""

import re
from collections.abc import Iterator
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

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Lead from a method that says in one line what it does differently to the one that has the arguments."""
        for kind in classes_of(pkg):
            for name, method in kind.members.items():
                if isinstance(method, griffe.Function) and is_one_line(method):
                    base = described_base(kind, name)
                    if base is not None and method.docstring is not None:
                        method.docstring.value += f"\n\nArguments and shapes: {link_to(base)}."


def is_one_line(method: griffe.Function) -> bool:
    """Tell whether a docstring is there, and of one line."""
    return method.docstring is not None and "\n" not in method.docstring.value


def link_to(method: griffe.Function) -> str:
    """Write a link to a method, by the name of its class and its own."""
    if method.parent is None:
        return f"[`{method.name}`][{method.path}]"
    return f"[`{method.parent.name}.{method.name}`][{method.path}]"


def classes_of(module: griffe.Module) -> Iterator[griffe.Class]:
    """Find the classes that a module and those in it define."""
    for member in module.members.values():
        if isinstance(member, griffe.Class):
            yield member
        elif isinstance(member, griffe.Module):
            yield from classes_of(member)


def described_base(kind: griffe.Class, name: str) -> griffe.Function | None:
    """Find the method that is overridden, if it describes its arguments; of other packages none is known here."""
    for base in kind.mro():
        method = base.members.get(name)
        if isinstance(method, griffe.Function):
            has_arguments = method.docstring is not None and "\nArgs:" in method.docstring.value
            return method if has_arguments else None
    return None


def to_markdown(text: str) -> str:
    r"""Rewrite what is Sphinx's.

    Example:
        >>> to_markdown("the least, :math:`\\arg\\min_k L_k`")
        'the least, $\\arg\\min_k L_k$'
    """
    text = DISPLAY.sub(_display, text + "\n").rstrip("\n")
    text = re.sub(r":math:`([^`]*)`", _inline, text)
    return re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


def _inline(match: re.Match[str]) -> str:
    equation = " ".join(match[1].split())
    return f"${equation}$"


def _display(match: re.Match[str]) -> str:
    equation = " ".join(f"{match['first']} {match['rest']}".split())
    return f"{match['indent']}$$\n{match['indent']}{equation}\n{match['indent']}$$\n"
