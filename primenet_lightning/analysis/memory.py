"""What memory a training step needs: the bytes that autograd holds for backward."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from primenet_lightning.nn.losses import summed_cross_entropy
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.runner import StageRunner


def training_activation_bytes(
    network: nn.Module, in_shape: tuple[int, int, int], batch_size: int = 200, num_classes: int = 10
) -> int:
    """Measure the peak of saved activations in one training step, in float32 on the CPU.

    A step is made on a copy, in training mode and without an optimizer: of a `StagedNetwork` stage by stage, each sent
    backward and dropped before the next one runs, as by default; of any other module one backward of the
    cross-entropy of its logits, summed where it gives several. What is counted is what `SavedActivations` says. Of a
    `PrimeNet` give its ``network``: called as a module it only predicts.

    Args:
        network: From images to logits, ``(batch, classes)``, or to a tuple or list of such.
        in_shape: Channels, height and width of the images.
        batch_size: Images in the step; at least 2, which batch norm needs.
        num_classes: Number of classes of the labels.

    Returns:
        Bytes, without parameters, buffers, images and labels.

    Raises:
        ValueError: If ``batch_size`` or ``num_classes`` is too small, or the network cannot take such a batch.

    Example:
        >>> layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
        >>> training_activation_bytes(layers, (1, 8, 8), batch_size=50)  # tanh, log-softmax, and one number
        6004
    """
    if batch_size < 2:
        raise ValueError(f"batch_size={batch_size} must be at least 2 images, since batch norm takes no fewer")
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    copied = copy.deepcopy(network).cpu().float().train()
    # not blank images: of equal maps some local losses are not defined
    images = torch.randn(batch_size, *in_shape, generator=torch.Generator().manual_seed(0))
    target = torch.arange(batch_size) % num_classes
    uncounted = [*copied.parameters(), *copied.buffers(), images, target]
    # dropout draws from the generator that a training goes on with
    with torch.random.fork_rng(devices=[]), SavedActivations(uncounted) as counter:
        try:
            StageRunner(_staged(copied, in_shape)).run(images, target)
        except (RuntimeError, IndexError) as error:  # the latter of labels beyond the logits
            raise ValueError(
                f"network cannot train on images of in_shape={in_shape} with num_classes={num_classes}: {error}"
            ) from error
    return counter.peak


def _staged(network: nn.Module, in_shape: tuple[int, ...]) -> StagedNetwork:
    """A network as the engine trains it: one of several exits by the sum of their losses."""
    if isinstance(network, StagedNetwork):
        return network
    return WholeNetwork(network, in_shape, _summed_over_exits, logits=None)


def _summed_over_exits(output: Any, target: Tensor) -> Tensor:
    exits = output if isinstance(output, tuple | list) else [output]
    return summed_cross_entropy(exits, target)


class SavedActivations:
    """Counts the bytes that autograd holds for backward passes, while it is entered.

    Several saved tensors may share a storage; it counts once, from the first to be saved until the last is let go.
    Inside non-reentrant checkpointing, which puts hooks of its own around what it runs, nothing is seen.

    Args:
        uncounted: Tensors of any shape whose storages do not count.

    Attributes:
        alive: Bytes held now.
        peak: The most that were held at a time.

    Example:
        >>> x = torch.ones(1000, requires_grad=True)
        >>> with SavedActivations([x]) as counter:
        ...     y = x.tanh().tanh()  # each saves its own output, 1000 numbers of 4 bytes
        ...     y.sum().backward()
        >>> counter.peak, counter.alive
        (8000, 0)
    """

    def __init__(self, uncounted: Iterable[Tensor]) -> None:
        self.alive = 0
        self.peak = 0
        self._saved: dict[int, int] = {}  # how many saved tensors are on a storage, by its address
        self._uncounted = {tensor.untyped_storage().data_ptr() for tensor in uncounted}
        self._hooks = saved_tensors_hooks(lambda tensor: _Saved(tensor, self), lambda saved: saved.tensor)

    def __enter__(self) -> "SavedActivations":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def add(self, tensor: Tensor) -> None:
        """Take note that a tensor was saved.

        Args:
            tensor: Of any shape.
        """
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._uncounted:
            return
        self._saved[address] = self._saved.get(address, 0) + 1
        if self._saved[address] == 1:
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)

    def remove(self, tensor: Tensor) -> None:
        """Take note that a saved tensor was let go.

        Args:
            tensor: Of any shape.
        """
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address in self._uncounted:
            return
        self._saved[address] -= 1
        if self._saved[address] == 0:
            del self._saved[address]  # the address may be another storage's next
            self.alive -= storage.nbytes()


class _Saved:
    """What autograd holds in a saved tensor's place; it is deleted when autograd lets go."""

    def __init__(self, tensor: Tensor, counter: SavedActivations) -> None:
        self.tensor = tensor.detach()  # an operation's own output would hold the graph that holds it
        self.counter = counter
        counter.add(self.tensor)

    def __del__(self) -> None:
        self.counter.remove(self.tensor)
