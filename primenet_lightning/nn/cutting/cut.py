"""Cutting a model into parts, before modules that are named or into so many parts of about equal cost."""

from collections.abc import Sequence

from torch import nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.cutting.balance import Balance, costs_of, share_out
from primenet_lightning.nn.cutting.borders import (
    ancestors,
    borders_at,
    extract,
    refuse_names,
    refuse_output,
    refuse_shared,
)
from primenet_lightning.nn.cutting.candidates import candidates
from primenet_lightning.nn.cutting.features import Features
from primenet_lightning.nn.cutting.parts import Part, Piece
from primenet_lightning.nn.cutting.tracing import shapes_of, trace_both
from primenet_lightning.nn.layers import blank_input, trial_run


def cut(
    model: nn.Module,
    example_shape: tuple[int, ...],
    at: Sequence[str] = (),
    parts: int | None = None,
    balance: Balance = "multiply_adds",
) -> list[Part]:
    """Cut a model into parts that share its modules; one after the other they compute what the model does.

    Nothing of the model changes: neither its modules, nor the names of its weights, nor what it computes. So parts that
    are trained have trained the model.

    Args:
        model: From images to logits.
        example_shape: Of one image, without the batch: ``(3, 224, 224)``.
        at: Names of modules, in the order in which they run, which the second part and those after it begin with.
        parts: Into how many parts to cut, where ``at`` is not given: so that the costliest is as cheap as possible.
        balance: What is cheap: few ``"multiply_adds"``, little ``"time"``, or few saved ``"activations"``.

    Returns:
        The parts.

    Raises:
        ValueError: If the model cannot be cut so, or takes no such images.

    Example:
        >>> import torch
        >>> from torch.nn.functional import cross_entropy
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        ...                       nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        >>> parts = cut(model, (1, 8, 8), parts=2)
        >>> [part.name for part in parts]
        ['', '5']
        >>> x, target = torch.randn(4, 1, 8, 8), torch.tensor([3, 1, 4, 1])
        >>> for part in parts:  # each by its own loss: the first 10 features are its logits
        ...     y = part(x)
        ...     cross_entropy(y[:, :10], target).backward()
        ...     x = y.detach()
    """
    refuse_places(at, parts)
    if parts is None:
        return cut_at(model, example_shape, at)
    pieces = pieces_of(model, example_shape)
    closing = [0.0] * len(pieces)
    return cut_at(model, example_shape, balanced_names(model, pieces, parts, balance, closing))


def refuse_places(at: Sequence[str], parts: int | None) -> None:
    """Refuse what says not, or twice, where to cut, and numbers of parts that cannot be.

    Args:
        at: Names of modules.
        parts: Into how many parts to cut instead.

    Raises:
        ValueError: If both or none are given, or if the number is below 1, or no whole number.

    Example:
        >>> refuse_places([], 0)
        Traceback (most recent call last):
        ...
        ValueError: parts=0 must be at least 1 part
    """
    if bool(at) == (parts is not None):
        raise ValueError(f"at={list(at)} and parts={parts}: give the names of the modules to cut at, or how many parts")
    if parts is None:
        return
    if not isinstance(parts, int):
        raise ValueError(f"parts={parts!r} must be a whole number of parts")
    at_least(1, "part", parts=parts)


def pieces_of(model: nn.Module, example_shape: tuple[int, ...], named: Sequence[str] = ()) -> list[Piece]:
    """Cut a model at every place where it may be cut.

    Args:
        model: From images to logits.
        example_shape: Of one image, without the batch.
        named: Modules before which it is to be cut too.

    Returns:
        Its blocks, first to last.

    Raises:
        ValueError: If it cannot be cut, or takes no such images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> [(piece.takes.shape, piece.gives.shape) for piece in pieces_of(model, (1, 8, 8))]
        [((1, 8, 8), (64,)), ((64,), (32,)), ((32,), (10,))]
    """
    places = candidates(model, example_shape, named)
    parts = cut_at(model, example_shape, [place.name for place in places])
    pieces: list[Piece] = []
    for part in parts:
        takes, gives = Features.of(part.in_shape, example_shape), Features.of(part.out_shape, example_shape)
        pieces.append(Piece(part, takes, gives))
    return pieces


def balanced_names(
    model: nn.Module, pieces: Sequence[Piece], parts: int, balance: Balance, closing: Sequence[float]
) -> list[str]:
    """Choose where to cut a model into so many parts of about equal cost.

    Args:
        model: From images to logits.
        pieces: Of `pieces_of`.
        parts: How many parts.
        balance: What they are to cost alike.
        closing: What a part that ends with this piece costs besides, of each piece.

    Returns:
        Names of modules, one fewer than parts.

    Raises:
        ValueError: If there are fewer places to cut at.
    """
    if parts > len(pieces):
        raise ValueError(
            f"parts={parts} is too many: {type(model).__name__} can be cut at {len(pieces) - 1} places, so into at "
            f"most {len(pieces)} parts"
        )
    costs = costs_of([piece.part for piece in pieces], pieces[0].takes.shape, timed=balance == "time")
    starts = share_out([cost.by(balance) for cost in costs], closing, parts)
    return [pieces[start].part.name for start in starts]


def cut_at(model: nn.Module, example_shape: tuple[int, ...], names: Sequence[str]) -> list[Part]:
    """Cut a model before the modules named.

    Args:
        model: From images to logits.
        example_shape: Of one image, without the batch.
        names: Of modules, in the order in which they run.

    Returns:
        The parts, one more than there are names.

    Raises:
        ValueError: If the model cannot be cut there, or takes no such images.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> len(cut_at(model, (1, 2, 2), ["1", "3"]))
        3
    """
    refuse_names(model, names)
    traces = trace_both(model, ancestors(names))
    shapes = shapes_of(model, traces[False], example_shape)
    refuse_output(traces[False], shapes)
    borders = {False: borders_at(model, traces[False], names, shapes), True: borders_at(model, traces[True], names, {})}
    parts: list[Part] = []
    for index, name in enumerate(["", *names]):
        graphs = {training: extract(traced, borders[training], index) for training, traced in traces.items()}
        parts.append(Part(model, graphs, name))
    refuse_shared([part.name for part in parts], [list(part.body.named_parameters()) for part in parts])
    try_out(parts, example_shape)
    return parts


def try_out(parts: Sequence[Part], example_shape: tuple[int, ...]) -> None:
    """Run parts once, to find out their shapes, and which ones write into their input, such as by an in-place ReLU.

    Args:
        parts: In a row.
        example_shape: Of one image, without the batch.
    """
    with trial_run(parts[0].model):
        x = blank_input(parts[0].model, example_shape)
        for part in parts:
            part.in_shape = tuple(x.shape[1:])
            version = x._version
            y = part(x)
            part.changes_input = x._version != version or part.begins_in_place
            part.out_shape = tuple(y.shape[1:])
            x = y
