"""Routers by name, or by the import path of one's own."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from primenet_lightning.arguments import first_line, with_options
from primenet_lightning.nn.prime.lasting import Commit, Settle
from primenet_lightning.nn.prime.mixing import Concatenate, Gate, Mean
from primenet_lightning.nn.prime.router import Fixed, LeastLoss, RandomChoice, Router

RouterName = Literal["least_loss", "settle", "commit", "concatenate", "mean", "gate", "fixed", "random"]

_KINDS = (LeastLoss, Settle, Commit, Concatenate, Mean, Gate, Fixed, RandomChoice)

ROUTERS: Mapping[str, type[Router]] = {kind.name: kind for kind in _KINDS}
"""Routers by name."""


def build_router(name: str = "least_loss", index: int = 0, options: Mapping[str, Any] | None = None) -> Router:
    """Make a router by name.

    Args:
        name: One of `ROUTERS`, or the import path of a subclass of `Router`, ``"my_package.MyRouter"``.
        index: The block's index: block by block, `Commit` gives each its own warm-up, one after the other, and
            `RandomChoice` its own sequence.
        options: Arguments of the router's class.

    Returns:
        A new router.

    Raises:
        ValueError: If there is no such router, or it has no such option.

    Example:
        >>> build_router("commit", index=2, options={"warm_up": 100}).warm_up
        300
    """
    router = with_options("router", name, router_class(name), options)
    router.block_index = index
    return router


def router_class(name: str) -> type[Router]:
    """Look a router's class up.

    Args:
        name: One of `ROUTERS`, or an import path.

    Returns:
        The class.

    Raises:
        ValueError: If the name is unknown, or the path leads to nothing or to no subclass of `Router`.

    Example:
        >>> router_class("commit").__name__, router_class("primenet_lightning.nn.prime.mixing.Gate").__name__
        ('Commit', 'Gate')
    """
    if name in ROUTERS:
        return ROUTERS[name]
    module, dot, class_name = name.rpartition(".")
    if not dot:
        raise ValueError(f"router={name!r} is unknown; use one of {', '.join(map(repr, ROUTERS))}")
    try:
        kind = getattr(import_module(module), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two of a path with a dot in front
        raise ValueError(
            f"router={name!r} cannot be imported: {first_line(error)}; give the path of a class, as "
            "'my_package.MyRouter', of a package that is installed or in the current folder"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Router)):
        raise ValueError(f"router={name!r} is no router; give the path of a subclass of primenet_lightning.Router")
    return kind
