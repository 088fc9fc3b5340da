"""Borders: where a forward pass can be cut, and what crosses it there."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.fx import Graph, Node

from primenet_lightning.nn.cutting.tracing import Traced


class Border(NamedTuple):
    """A place between two calls of a forward pass.

    Attributes:
        position: Of the first call behind it.
        crossing: The one call before it whose result is used behind it.
    """

    position: int
    crossing: Node


def crossing(traced: Traced, position: int) -> list[Node]:
    """Find what is made before a place and used behind it. Parameters are not: both sides can read them.

    Args:
        traced: A forward pass.
        position: Of the first call behind that place.

    Returns:
        The calls whose results cross.

    Example:
        >>> from primenet_lightning.nn.cutting.tracing import trace
        >>> traced = trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), [], training=False)
        >>> crossing(traced, 2)
        [_0]
    """
    behind = set(traced.nodes[position:])
    across: list[Node] = []
    for node in traced.nodes[:position]:
        if node.op != "get_attr" and not behind.isdisjoint(node.users):
            across.append(node)
    return across


def ancestors(names: Iterable[str]) -> set[str]:
    """List the modules that have these inside, but for the model itself.

    Args:
        names: Of modules.

    Returns:
        Names of modules.

    Example:
        >>> sorted(ancestors(["layer1.0.conv1", "fc"]))
        ['layer1', 'layer1.0']
    """
    around: set[str] = set()
    for name in names:
        steps = name.split(".")
        for depth in range(1, len(steps)):
            around.add(".".join(steps[:depth]))
    return around


def refuse_names(model: nn.Module, names: Sequence[str], argument: str = "at") -> None:
    """Refuse names that are not those of modules, or come twice.

    Args:
        model: Whose modules.
        names: Where it is to be cut.
        argument: That they were given as.

    Raises:
        ValueError: For the first such name, or if it is one name, not a list.

    Example:
        >>> refuse_names(nn.Sequential(nn.Flatten()), ["O"])
        Traceback (most recent call last):
        ...
        ValueError: at has 'O', which is no module of Sequential; its modules are '0'
    """
    if isinstance(names, str):
        raise ValueError(f"{argument}={names!r} is one name; give a list of names, [{names!r}]")
    there = [name for name, _ in model.named_modules() if name]
    for place, name in enumerate(names):
        if name not in there:
            raise ValueError(
                f"{argument} has {name!r}, which is no module of {type(model).__name__}; {_instead(name, there)}"
            )
        if name in names[:place]:
            raise ValueError(f"{argument} has {name!r} twice; name each module once")


def _instead(name: str, there: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), there, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    children = [other for other in there if "." not in other]
    return f"its modules are {', '.join(map(repr, children))}"


def borders_at(model: nn.Module, traced: Traced, names: Sequence[str], shapes: Mapping[Node, Any]) -> list[Border]:
    """Find the borders right before some modules.

    Args:
        model: That was traced.
        traced: Its forward pass.
        names: Of modules, in the order in which they run.
        shapes: Of `shapes_of`; empty where they are not known.

    Returns:
        One border a name.

    Raises:
        ValueError: If a module is never called, if the order is another, if a part would be empty, or if more than one
            tensor crosses.
    """
    borders: list[Border] = []
    before: Node | None = traced.nodes[0]
    last = 0
    for place, name in enumerate(names):
        _refuse_uncalled(model, traced, name)
        position = traced.entered[name]
        if position < last:
            raise ValueError(
                f"at has {name!r} after {names[place - 1]!r}, which runs later; name the modules in the order in which "
                "they run"
            )
        across = crossing(traced, position)
        _refuse_several(name, across, shapes)
        if across[0] is before:
            other = "the beginning of the model"
            if place > 0:
                other = repr(names[place - 1])
            raise ValueError(f"at has {name!r}, but nothing lies between it and {other}; name a module further on")
        borders.append(Border(position, across[0]))
        before, last = across[0], position
    return borders


def _refuse_uncalled(model: nn.Module, traced: Traced, name: str) -> None:
    if name in traced.entered:
        return
    inside = [child for child in traced.entered if child.startswith(f"{name}.")]
    if not inside:
        inside = [f"{name}.{child}" for child, _ in model.get_submodule(name).named_children()]
    instead = f"name a module inside it, such as {inside[0]!r}" if inside else "name another module"
    raise ValueError(f"at has {name!r}, which the forward pass of {type(model).__name__} never calls; {instead}")


def _refuse_several(name: str, across: Sequence[Node], shapes: Mapping[Node, Any]) -> None:
    """A border has to be crossed by one tensor, whose first dimension is the batch's."""
    described = ", ".join(described_as(node, shapes) for node in across)
    if len(across) > 1:
        raise ValueError(
            f"at has {name!r}, but {len(across)} values are used on both sides of it: {described}; cut where only one "
            "tensor goes on, such as between two blocks"
        )
    if across[0] in shapes and not is_batch(shapes[across[0]]):
        raise ValueError(
            f"at has {name!r}, but what goes on there is no tensor with one row an image: {described}; cut elsewhere"
        )


def is_batch(shape: Any) -> bool:
    """Tell whether a value of `shapes_of` is a tensor of two images, which has more than one number per image.

    Args:
        shape: Of the value, or the name of its type.

    Returns:
        Whether its first dimension is the batch's.

    Example:
        >>> is_batch((2, 8, 4, 4)), is_batch((49, 2, 8)), is_batch("tuple")
        (True, False, False)
    """
    return isinstance(shape, tuple) and len(shape) > 1 and shape[0] == 2


def described_as(node: Node, shapes: Mapping[Node, Any]) -> str:
    """Tell what a call gives, in words.

    Args:
        node: The call.
        shapes: Of `shapes_of`; empty where they are not known.

    Returns:
        Where it comes from, and its shape or its type.
    """
    words = f"the output of {node.target}" if node.op == "call_module" else node.name
    if node.op == "placeholder":
        words = "the images"
    if node not in shapes:
        return words
    return f"{words} ({_kind(shapes[node])})"


def _kind(shape: Any) -> str:
    """A value of `shapes_of` in words."""
    if not isinstance(shape, tuple):
        return f"a {shape}"
    sizes = ", ".join(map(str, shape[1:]))
    return f"shape (batch, {sizes})"


def extract(traced: Traced, borders: Sequence[Border], index: int) -> Graph:
    """Take a part out of a forward pass.

    Args:
        traced: The forward pass.
        borders: Where it is cut.
        index: Which part, 0 before the first border.

    Returns:
        What the part computes, from the one tensor that enters it to the one that leaves it.
    """
    entering, start = traced.nodes[0], 1
    leaving, end = output_of(traced), len(traced.nodes) - 1
    if index > 0:
        start, entering = borders[index - 1]
    if index < len(borders):
        end, leaving = borders[index]
    graph = Graph()
    values = {entering: graph.placeholder("x")}

    def value_of(node: Node) -> Node:
        if node not in values:  # only parameters and buffers, which every part reads for itself
            values[node] = graph.node_copy(node)
        return values[node]

    for node in traced.nodes[start:end]:
        if node.op != "get_attr":
            values[node] = graph.node_copy(node, value_of)
    graph.output(values[leaving])
    return graph


def output_of(traced: Traced) -> Node:
    """Find the call that gives the logits.

    Args:
        traced: A forward pass.

    Returns:
        That call.

    Raises:
        ValueError: If the model gives something else than one tensor.
    """
    given = traced.nodes[-1].args[0]
    kind = type(given)
    if isinstance(given, Node) and isinstance(given.target, type):  # as a named tuple is made
        kind = given.target
    if kind is not Node:
        raise ValueError(_no_logits(f"an output of type {kind.__name__}"))
    assert isinstance(given, Node)
    return given


def refuse_output(traced: Traced, shapes: Mapping[Node, Any]) -> None:
    """Refuse a model that gives no logits.

    Args:
        traced: Its forward pass.
        shapes: Of `shapes_of`.

    Raises:
        ValueError: If what it gives is no tensor of two dimensions.
    """
    shape = shapes[output_of(traced)]
    if not is_batch(shape) or len(shape) != 2:
        raise ValueError(_no_logits(_kind(shape)))


def _no_logits(kind: str) -> str:
    return (
        f"the model gives {kind}, not one tensor of logits (batch, classes); build it without auxiliary outputs "
        "(aux_logits=False), or wrap it in a module that gives the logits alone"
    )


def refuse_shared(names: Sequence[str], members: Sequence[Collection[tuple[str, nn.Parameter]]]) -> None:
    """Refuse parameters that more than one part uses: no part could learn them by itself.

    Args:
        names: What each part is called.
        members: Of each part, its parameters by name.

    Raises:
        ValueError: For the first such parameter.
    """
    owners: dict[int, int] = {}
    for index, parameters in enumerate(members):
        for name, parameter in parameters:
            owner = owners.setdefault(id(parameter), index)
            if owner != index:
                raise ValueError(
                    f"parameter {name} is used on both sides of the cut at {names[owner + 1]!r}, so that no part could "
                    "learn it by itself; cut where all that uses it is on one side"
                )
