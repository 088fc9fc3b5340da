"""Parts of about equal cost: what pieces of a model cost, and how they are shared out."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning.nn.cutting.parts import Part
from primenet_lightning.nn.deferring import trying_out
from primenet_lightning.nn.layers import random_numbers_kept

Balance = Literal["multiply_adds", "time", "activations"]
"""What parts are to cost alike: multiply-adds of a forward pass, time of a training step, or saved activations."""

Module = TypeVar("Module", bound=nn.Module)
Result = TypeVar("Result")

REPEATS = 3
"""How often a piece is timed; the shortest time counts."""


class Cost(NamedTuple):
    """What a piece of a model costs in training, per image.

    Attributes:
        multiply_adds: Of its forward pass.
        seconds: Of its forward and backward passes, as measured here.
        activation_bytes: That it saves for its backward pass.
    """

    multiply_adds: float
    seconds: float
    activation_bytes: float

    def by(self, balance: Balance) -> float:
        """Pick what is to be balanced.

        Args:
            balance: By name.

        Returns:
            The number.

        Raises:
            ValueError: If there is no such name.

        Example:
            >>> Cost(1000, 0.5, 64).by("activations")
            64
        """
        numbers: dict[str, float] = {
            "multiply_adds": self.multiply_adds,
            "time": self.seconds,
            "activations": self.activation_bytes,
        }
        if balance not in numbers:
            raise ValueError(f"balance={balance!r} is unknown; use {', '.join(map(repr, numbers))}")
        return numbers[balance]


def costs_of(pieces: Sequence[nn.Module], example_shape: tuple[int, ...], timed: bool = False) -> list[Cost]:
    """Find out what pieces in a row cost. They are copied first, so that nothing of them changes.

    Unless the time is asked for, nothing is computed: the copies have shapes, and no numbers.

    Args:
        pieces: Each takes what the one before it gives.
        example_shape: Of what the first one takes for one image, without the batch.
        timed: Whether to measure the time too, for which they have to run.

    Returns:
        The cost of each.

    Example:
        >>> cost, = costs_of([nn.Linear(4, 3)], (4,))
        >>> cost.multiply_adds, cost.activation_bytes  # 4 numbers of 4 bytes: the input
        (12.0, 16.0)
    """
    if timed:
        return measured(copy.deepcopy(list(pieces)), example_shape, timed)
    return on_copies(pieces, lambda copies: measured(copies, example_shape))


def on_copies(modules: Sequence[Module], run: Callable[[list[Module]], Result]) -> Result:
    """Run something on copies of modules: without numbers, where nothing looks at them, or else whole ones.

    Args:
        modules: Which may share parameters, and then share them after.
        run: What to do with the copies.

    Returns:
        What it gives.

    Example:
        >>> on_copies([nn.Linear(4, 3)], lambda copies: copies[0].weight.is_meta)
        True
    """
    try:
        with trying_out():
            return run(without_numbers(modules))
    except (RuntimeError, NotImplementedError):  # a call that has to look at numbers
        return run(copy.deepcopy(list(modules)))


def without_numbers(modules: Sequence[Module]) -> list[Module]:
    """Copy modules without their numbers: to torch's meta device, where only shapes are computed.

    Args:
        modules: Which may share parameters, and then share them after.

    Returns:
        The copies.

    Example:
        >>> copied, = without_numbers([nn.Linear(4, 3)])
        >>> copied.weight.device, copied.weight.shape
        (device(type='meta'), torch.Size([3, 4]))
    """
    copies: dict[int, object] = {}
    for module in modules:
        owner = module.model if isinstance(module, Part) else module
        for parameter in owner.parameters():
            blank = torch.empty_like(parameter, device="meta")
            copies[id(parameter)] = nn.Parameter(blank, requires_grad=parameter.requires_grad)
        for buffer in owner.buffers():
            copies[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(list(modules), copies)


def measured(pieces: Sequence[nn.Module], example_shape: tuple[int, ...], timed: bool = False) -> list[Cost]:
    """Run pieces in a row as in training, and take note of what each costs. Statistics of batch norm change.

    Args:
        pieces: Each takes what the one before it gives.
        example_shape: Of what the first one takes for one image, without the batch.
        timed: Whether to measure the time too.

    Returns:
        The cost of each.
    """
    like = torch.empty(0)
    for piece in pieces:
        piece.train()
        if isinstance(piece, Part):
            piece.model.train()
        like = next(piece.parameters(), like)
    costs: list[Cost] = []
    with random_numbers_kept(like):
        x = torch.randn(2, *example_shape, device=like.device, dtype=like.dtype)
        for piece in pieces:
            cost, x = _cost_of(piece, x, timed)
            costs.append(cost)
    return costs


def _cost_of(piece: nn.Module, x: Tensor, timed: bool) -> tuple[Cost, Tensor]:
    """The cost of one piece, and what it gives."""
    images = len(x)
    own = {tensor.untyped_storage()._cdata for tensor in [*piece.parameters(), *piece.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}  # which keeps them, so that no other takes their place

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    with (
        _fused_attention(),
        saved_tensors_hooks(save, lambda tensor: tensor),
        FlopCounterMode(display=False) as counter,
    ):
        y = piece(_input(x))
    activation_bytes = sum(storage.nbytes() for storage in saved.values()) / images
    seconds = 0.0
    if timed:
        seconds = min(_seconds(piece, x) for _ in range(REPEATS)) / images
    return Cost(counter.get_total_flops() / 2 / images, seconds, activation_bytes), y.detach()


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Have attention without numbers save what it does with numbers: not the products of all pairs of tokens."""
    attention = functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        masked = (bool(args) and args[0] is not None) or kwargs.get("attn_mask") is not None
        if not query.is_meta or query.dim() != 4 or masked:
            return attention(query, key, value, *args, **kwargs)
        attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
        return attended

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attention


def _input(x: Tensor) -> Tensor:
    """A copy, which a piece may write into; not a leaf, since those may not be written into."""
    return x.clone().requires_grad_().clone()


def _seconds(piece: nn.Module, x: Tensor) -> float:
    given = _input(x)
    wait_for(x)
    started = time.perf_counter()
    y = piece(given)
    if y.requires_grad:
        y.backward(torch.ones_like(y))
    wait_for(x)
    return time.perf_counter() - started


def wait_for(x: Tensor) -> None:
    """Wait until the device of a tensor has done all that it was told; a CPU always has.

    Args:
        x: Of any shape.
    """
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def share_out(pieces: Sequence[float], closing: Sequence[float], parts: int) -> list[int]:
    """Share pieces in a row out to parts, so that the costliest part is as cheap as possible.

    Among the ways that are equally good at that, the one whose parts' costs have the least sum of squares is taken.

    Args:
        pieces: The cost of each piece.
        closing: What a part that ends with this piece costs besides, such as its local classifier; of each piece, 0
            for the last.
        parts: How many parts.

    Returns:
        Of each part but the first, the piece that it begins with.

    Raises:
        ValueError: If there are fewer pieces than parts.

    Example:
        >>> share_out([1, 1, 1, 3], closing=[0, 0, 0, 0], parts=2)
        [3]
    """
    if parts > len(pieces):
        raise ValueError(f"parts={parts} are more than there are pieces, {len(pieces)}")
    begun = [0.0]
    for piece in pieces:
        begun.append(begun[-1] + piece)

    def cost(start: int, end: int) -> float:
        return begun[end] - begun[start] + closing[end - 1]

    costliest, _ = _best(len(pieces), parts, cost, max)
    bound = costliest * (1 + 1e-9)

    def squared(start: int, end: int) -> float:
        return cost(start, end) ** 2 if cost(start, end) <= bound else float("inf")

    return _best(len(pieces), parts, squared, lambda one, other: one + other)[1]


def _best(
    count: int, parts: int, cost: Callable[[int, int], float], join: Callable[[float, float], float]
) -> tuple[float, list[int]]:
    """The least joint cost of sharing ``count`` pieces out, and where the parts but the first begin.

    ``table[end]`` is the best for the pieces before ``end`` and the parts so far.
    """
    table: dict[int, tuple[float, list[int]]] = {}
    for end in range(1, count + 1):
        table[end] = (cost(0, end), [])
    for part in range(1, parts):
        longer: dict[int, tuple[float, list[int]]] = {}
        for end in range(part + 1, count + 1):
            ways: list[tuple[float, list[int]]] = []
            for start in range(part, end):
                before, starts = table[start]
                ways.append((join(before, cost(start, end)), [*starts, start]))
            longer[end] = min(ways, key=lambda way: way[0])
        table = longer
    return table[count]
