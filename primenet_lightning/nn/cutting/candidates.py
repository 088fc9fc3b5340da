"""Where a model may be cut automatically."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _NormBase

from primenet_lightning.nn.cutting.borders import ancestors, crossing, is_batch
from primenet_lightning.nn.cutting.parts import attribute
from primenet_lightning.nn.cutting.tracing import Traced, shapes_of, trace_both

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)
"""Layers that no part begins with: they belong to the layer before them."""


class Candidate(NamedTuple):
    """A module before which a model may be cut.

    Attributes:
        name: Of the module.
        shape: Of what crosses the cut there for one image.
    """

    name: str
    shape: tuple[int, ...]


def candidates(model: nn.Module, example_shape: tuple[int, ...], named: Collection[str] = ()) -> list[Candidate]:
    """Find all places between blocks of a model where exactly one tensor goes on.

    The blocks are the children of the model, and where one is itself a row of blocks its children, and so on.

    Args:
        model: From images to logits.
        example_shape: Of one image, without the batch.
        named: Modules that are candidates whatever they are, unless more than one tensor goes on before them.

    Returns:
        The places, in the order in which they run.

    Raises:
        ValueError: If the forward pass cannot be recorded, or takes no such images.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> candidates(model, (1, 8, 8))
        [Candidate(name='4', shape=(144,))]
    """
    traces = trace_rows(model, named)
    traced = traces[False]
    shapes = shapes_of(model, traced, example_shape)
    spans = _spans(model, traced)
    places: list[Candidate] = []
    known: set[Node] = {traced.nodes[0]}  # nothing lies before what the images themselves cross
    for name, position in _in_order(traced, named):
        if name not in named and not _may_begin_a_part(model.get_submodule(name)):
            continue
        across = crossing(traced, position)
        shared = any(first < position <= last for first, last in spans)
        if len(across) > 1 or across[0] in known or shared or not is_batch(shapes[across[0]]):
            continue
        if name not in named and not _goes_in_training_too(traces[True], name):
            continue
        known.add(across[0])
        places.append(Candidate(name, shapes[across[0]][1:]))
    return places


def _goes_in_training_too(traced: Traced, name: str) -> bool:
    return name in traced.entered and len(crossing(traced, traced.entered[name])) == 1


def _in_order(traced: Traced, named: Collection[str]) -> list[tuple[str, int]]:
    """The modules that are called, as they run; of several that begin together the named one, then the outermost."""
    return sorted(traced.entered.items(), key=lambda entry: (entry[1], entry[0] not in named, entry[0].count(".")))


def _may_begin_a_part(module: nn.Module) -> bool:
    """Whether a module has something to learn, and is no norm."""
    return not isinstance(module, NORMS) and next(module.parameters(), None) is not None


def trace_rows(model: nn.Module, named: Collection[str] = ()) -> dict[bool, Traced]:
    """Record a forward pass, the inside of all rows of blocks included whose code can be recorded.

    Args:
        model: From images to logits.
        named: Modules that have to be in the record.

    Returns:
        The records, of evaluation (False) and of training (True).

    Raises:
        ValueError: If the model's own code cannot be recorded.
    """
    opened = ancestors(named)
    closed: set[str] = set()
    traces = trace_both(model, opened)
    while True:
        rows = {name for name in traces[False].entered if is_row(model.get_submodule(name))} - opened - closed
        if not rows:
            return traces
        for group in _together_or_one_by_one(rows):
            if group <= opened:
                continue
            try:
                traces = trace_both(model, opened | group)
                opened |= group
            except ValueError:
                closed |= group
        closed -= opened


def _together_or_one_by_one(rows: Collection[str]) -> Iterator[set[str]]:
    yield set(rows)
    for row in sorted(rows):
        yield {row}


def is_row(module: nn.Module) -> bool:
    """Tell whether a module is a row of blocks, or has one inside, rather than being a block.

    Args:
        module: Of a model.

    Returns:
        Whether cuts are looked for inside.

    Example:
        >>> is_row(nn.Sequential(nn.Linear(2, 2))), is_row(nn.Linear(2, 2)), is_row(nn.TransformerEncoderLayer(8, 2))
        (True, False, False)
    """
    if isinstance(module, nn.Sequential):
        return True
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            blocks = [block for block in child if next(block.children(), None) is not None]
            if len(blocks) > 1:
                return True
    return False


def _spans(model: nn.Module, traced: Traced) -> list[tuple[int, int]]:
    """Of each parameter, the places of its first and its last use, where they differ."""
    places = {node: place for place, node in enumerate(traced.nodes)}
    spans: dict[int, tuple[int, int]] = {}
    for node, place in places.items():
        if node.op == "call_module":
            used, uses = list(model.get_submodule(str(node.target)).parameters()), [place]
        elif node.op == "get_attr":
            used, uses = [attribute(model, str(node.target))], [places[user] for user in node.users]
        else:
            continue
        for parameter in used:
            if isinstance(parameter, nn.Parameter):
                first, last = spans.get(id(parameter), (uses[0], uses[0]))
                spans[id(parameter)] = (min(first, *uses), max(last, *uses))
    return [span for span in spans.values() if span[0] != span[1]]
