"""Names of a package whose modules are imported when a name is first used."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package (PEP 562): whoever wants one name waits for no other's libraries.

    Args:
        package: Its dotted path.
        homes: The module of each name, by its path below ``primenet_lightning``.

    Returns:
        The function, which keeps each name in the package: the next use finds it there.

    Example:
        >>> look_up = on_first_use("primenet_lightning.first_use", {"at_least": "arguments"})
        >>> look_up("at_least").__module__
        'primenet_lightning.arguments'
    """

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"primenet_lightning.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return look_up
