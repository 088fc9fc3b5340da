"""A network built without memory; any part of it gets the weights later that it would have had at once."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

from primenet_lightning.nn.without_memory import WithoutMemory, drawn_without_memory, storage_of

Network = TypeVar("Network", bound=nn.Module)

_is_deferring: ContextVar[bool] = ContextVar("_is_deferring", default=False)


@contextmanager
def deferring() -> Iterator[None]:
    """Let models that are built in this context have networks without memory.

    Yields:
        Nothing.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> with deferring():
        ...     model = PrimeNet(num_classes=3)
        >>> next(model.network.parameters()).device
        device(type='meta')
    """
    token = _is_deferring.set(True)
    try:
        yield
    finally:
        _is_deferring.reset(token)


def is_deferring() -> bool:
    """Tell whether networks are built without memory here.

    Returns:
        Whether it is inside of `deferring`.

    Example:
        >>> is_deferring()
        False
    """
    return _is_deferring.get()


@contextmanager
def trying_out() -> Iterator[None]:
    """Run something on torch's meta device that is run there while any network is built: nothing is drawn for it.

    Yields:
        Nothing.

    Example:
        >>> with trying_out():
        ...     shape = nn.Dropout(0.5)(torch.empty(2, 3, device="meta")).shape
    """
    is_building = any(isinstance(mode, WithoutMemory) for mode in _get_current_dispatch_mode_stack())
    with _disable_current_modes() if is_building else nullcontext():
        yield


class DeferredNetwork(Generic[Network]):
    """A network on torch's meta device, and the way to the weights that it begins with.

    It is built twice, each time with the same random numbers. The first time nothing gets memory. The random numbers of
    the first values are drawn all the same, into memory that is let go at once: whatever is drawn afterwards is what it
    would be had the network been built with memory. The second time the values of those tensors are kept that are
    wanted.

    Args:
        build: Makes the network, the same at each call.

    Attributes:
        network: Its parameters have no memory.

    Example:
        >>> deferred = DeferredNetwork(lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)))
        >>> first, second = deferred.network
        >>> deferred.fill(without=[*first.parameters()])
        >>> first.weight.is_meta, second.weight.is_meta
        (True, False)
    """

    def __init__(self, build: Callable[[], Network]) -> None:
        self._build = build
        self._random_state = torch.get_rng_state()
        with WithoutMemory() as made, drawn_without_memory(made):
            self.network = build()
        # the tensors are kept, so that no other one gets the address of a storage
        self._made = made.tensors

    def fill(self, without: Collection[Tensor] = ()) -> None:
        """Give the network the weights that it begins with, in place.

        Args:
            without: Parameters and buffers, of any shape ``(...)``, that stay without memory.

        Raises:
            ValueError: If a weight comes about in a way that cannot be followed.
        """
        unwanted = {storage_of(tensor) for tensor in without}
        numbers = {number for number, tensor in enumerate(self._made) if storage_of(tensor) not in unwanted}
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random_state)
            with WithoutMemory(numbers) as made, drawn_without_memory(made):
                built_again = dict(named_tensors(self._build()))
        left_out = {id(tensor) for tensor in without}
        for name, tensor in named_tensors(self.network):
            if id(tensor) not in left_out and tensor.is_meta:
                values = made.values_of(built_again[name])
                if values is None:
                    raise ValueError(
                        f"{name} gets its first values in a way that cannot be followed without memory; build the "
                        "model outside of Trainer.init_module"
                    )
                put_in_place(tensor, values)


def named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Go through the parameters and buffers of a network, each once.

    Args:
        network: Any.

    Yields:
        The first name of each, and the tensor, of any shape ``(...)``.
    """
    yield from network.named_parameters()
    yield from network.named_buffers()


def put_in_place(tensor: Tensor, other: Tensor) -> Tensor:
    """Have the same object be another tensor, for whoever has it.

    Args:
        tensor: A parameter or buffer, of any shape ``(...)``.
        other: What it becomes, of the same shape ``(...)``; of a parameter a parameter that learns as it did.

    Returns:
        What it was before, of the same shape ``(...)``.

    Example:
        >>> weight = nn.Linear(2, 3).weight
        >>> before = put_in_place(weight, torch.zeros(3, 2))
        >>> type(weight).__name__, float(weight.sum())
        ('Parameter', 0.0)
    """
    if isinstance(tensor, nn.Parameter):
        other = nn.Parameter(other, requires_grad=tensor.requires_grad)
    swap: Callable[[Tensor, Tensor], None] = torch.utils.swap_tensors
    swap(tensor, other)
    return other
