"""Tensors without memory, some of whose values are computed all the same, beside them."""

import ctypes
import math
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

FACTORIES = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.zeros.default,
    torch.ops.aten.ones.default,
    torch.ops.aten.full.default,
    torch.ops.aten.rand.default,
    torch.ops.aten.randn.default,
}
"""What makes the tensors that layers begin with; the first argument is their size."""

LARGE = 2**20
"""Bytes of memory lent, from which on it is given back at once."""

LOOKING = ("_no_grad_trunc_normal_", "orthogonal_", "sparse_", "dirac_")
"""Initialisers of ``torch.nn.init`` that do nothing to a tensor without memory, since they look at numbers."""


class WithoutMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Has torch make tensors on its meta device. To Python all look alike, whether their values are computed or not.

    Random numbers are drawn for each tensor, as if it had memory. Values of those that are wanted are computed beside
    the tensors, by each operation that only needs what has values.

    Args:
        wanted: Which of the tensors made get values, counted from 0.

    Attributes:
        tensors: All that were made, in order, of any shape ``(...)``.

    Example:
        >>> with WithoutMemory(wanted={0}) as made:
        ...     layer = nn.Linear(2, 3)
        >>> layer.weight.is_meta, made.values_of(layer.weight).shape, made.values_of(layer.bias)
        (True, torch.Size([3, 2]), None)
    """

    def __init__(self, wanted: Collection[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = wanted
        self.tensors: list[Tensor] = []
        self._values: dict[int, Tensor] = {}
        self._without_values: set[int] = set()
        self._alive: list[Tensor] = []

    def values_of(self, tensor: Tensor) -> Tensor | None:
        """Look up what a tensor would hold, had it memory.

        Args:
            tensor: Of any shape ``(...)``.

        Returns:
            A view of its values, of the same shape, or the tensor itself if it has memory; None if they were not
            computed.
        """
        if not tensor.is_meta:
            return tensor
        values = self._values.get(storage_of(tensor))
        if values is None:
            return None
        with torch.no_grad():
            empty = torch.empty(0, dtype=tensor.dtype)
            return empty.set_(values.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if function in FACTORIES and _is_on_cpu(options) and math.prod(args[0]) > 0:  # copies begin with one of none
            return self._make(function, args, options)
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            return function(*args, **options)
        if function is torch.ops.aten.copy_.default:
            self._make_room(args[0], args[1])
        values = {id(tensor): self.values_of(tensor) for tensor in tensors}
        has_values = all(known is not None for known in values.values())
        computed = None
        if has_values:
            real_args, real_options = tree_map_only(Tensor, lambda tensor: values[id(tensor)], (args, options))
            computed = function(*real_args, **real_options)
        elif _is_random(function) and tensors[0] is args[0] and args[0].is_meta:
            with stand_in(args[0]) as drawn:
                function(drawn, *args[1:], **options)
        elif _writes(function):
            self._forget(args[0])
        if not _writes(function):
            args, options = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, options))
        elif not args[0].is_meta:  # into what has memory: that was done above, or cannot be done
            return function(*args, **options) if computed is None else computed
        result = function(*args, **options)
        if has_values:
            self._keep(result, computed)
        return result

    def _make(self, function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        is_wanted = len(self.tensors) in self.wanted
        values = function(*args, **options) if is_wanted or _is_random(function) else None
        tensor = torch.empty(args[0], dtype=options.get("dtype"), device="meta")
        self.tensors.append(tensor)
        if is_wanted and values is not None:
            self._values[storage_of(tensor)] = values
        else:
            self._without_values.add(storage_of(tensor))
        return tensor

    def _make_room(self, target: Tensor, source: Tensor) -> None:
        """What is copied as a whole into new memory has values there, as when a module is copied."""
        place = storage_of(target)
        if not target.is_meta or place in self._values or place in self._without_values:
            return
        if self.values_of(source) is not None:
            self._values[place] = torch.empty(target.untyped_storage().nbytes(), dtype=torch.uint8)
            self._alive.append(target)

    def _keep(self, result: Any, computed: Any) -> None:
        """Note the values of new tensors."""
        for tensor, values in zip(tree_leaves(result), tree_leaves(computed), strict=True):
            if isinstance(tensor, Tensor) and tensor.is_meta and storage_of(tensor) not in self._values:
                self._values[storage_of(tensor)] = values
                self._alive.append(tensor)  # or another one would get the address of its storage

    def _forget(self, tensor: Tensor) -> None:
        """Values into which something was written that has none are no longer known."""
        if tensor.is_meta:
            self._values.pop(storage_of(tensor), None)


@contextmanager
def drawn_without_memory(made: WithoutMemory) -> Iterator[None]:
    """Let torch's initialisers that look at numbers draw for tensors without memory, which they would pass by.

    Args:
        made: Knows which tensors have values.

    Yields:
        Nothing.
    """
    originals = {name: getattr(nn.init, name) for name in LOOKING if hasattr(nn.init, name)}
    for name, original in originals.items():
        setattr(nn.init, name, _drawing(original, made))
    try:
        with warnings.catch_warnings():
            # pretrained weights are no-ops where there is no memory, and come where there is
            warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter.*")
            yield
    finally:
        for name, original in originals.items():
            setattr(nn.init, name, original)


def _drawing(initialise: Callable[..., Tensor], made: WithoutMemory) -> Callable[..., Tensor]:
    @wraps(initialise)
    def drawn(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        if not tensor.is_meta:
            return initialise(tensor, *args, **options)
        values = made.values_of(tensor)
        with _disable_current_modes(), stand_in(tensor) if values is None else nullcontext(values) as real:
            initialise(real, *args, **options)
        return tensor

    return drawn


@contextmanager
def stand_in(tensor: Tensor) -> Iterator[Tensor]:
    """Lend memory for what is drawn for a tensor that has none.

    Args:
        tensor: Of any shape ``(...)``.

    Yields:
        Of the same shape ``(...)`` and layout, with any values.
    """
    memory = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
    yield memory
    if memory.untyped_storage().nbytes() >= LARGE:
        _give_back()


def _give_back() -> None:
    """Give what is free back to the system.

    glibc keeps it where small things lie between, and a model's worth adds up. What was lent last goes with the next.
    """
    with suppress(OSError, AttributeError):  # another system, or another allocator
        ctypes.CDLL(None).malloc_trim(0)


def storage_of(tensor: Tensor) -> int:
    """Tell the address of what a tensor and its views share.

    Args:
        tensor: Of any shape ``(...)``.

    Returns:
        A number that no other storage has as long as this one is there.
    """
    address: int = tensor.untyped_storage()._cdata
    return address


def _is_random(function: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in function.tags


def _writes(function: Any) -> bool:
    """Whether it is one of the operations that change their first argument."""
    return bool(function.overloadpacket.__name__.endswith("_"))


def _is_on_cpu(options: dict[str, Any]) -> bool:
    device = options.get("device")
    return device is None or torch.device(device).type == "cpu"
