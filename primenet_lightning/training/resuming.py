"""What a checkpoint holds beside Lightning's own: of each process random states, waiting gradients and counts."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from primenet_lightning.training.counting import LearnerMetrics
from primenet_lightning.training.exchange import Exchange


def get_random_state(device: torch.device | None = None) -> dict[str, Any]:
    """Take the state of the generators of torch, numpy and Python.

    Args:
        device: A GPU, whose generator is included.

    Returns:
        Tensors and numbers only, so that ``torch.load(weights_only=True)`` reads them.

    Example:
        >>> state = get_random_state()
        >>> drawn = torch.rand(1), np.random.rand(), random.random()
        >>> set_random_state(state)
        >>> drawn == (torch.rand(1), np.random.rand(), random.random())
        True
    """
    _, keys, position, has_gauss, cached = np.random.get_state()
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (torch.tensor(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)),
        "python": (version, torch.tensor(numbers), gauss),
    }
    if device is not None and device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Go on with a state from `get_random_state`.

    Args:
        state: That state.
        device: A GPU, whose generator is set if the state has one.
    """
    torch.set_rng_state(state["torch"].cpu())
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    if device is not None and device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


class ProcessStates:
    """What every process has of its own in the middle of a run: saved together, and given back.

    Attributes:
        random: Random states by process, which wait for the start of the fit.
        gradients: Gradients by process and parameter, which wait for the rest of their window.
    """

    def __init__(self) -> None:
        self.random: list[dict[str, Any]] = []
        self.gradients: list[dict[str, Tensor]] = []

    @staticmethod
    def save(network: nn.Module, metrics: LearnerMetrics, device: torch.device, exchange: Exchange) -> dict[str, Any]:
        """Collect the states of all processes; every process has to call it.

        Args:
            network: Whose gradients may wait for the rest of their window.
            metrics: Which have counted the epoch so far.
            device: Whose random state is saved.
            exchange: Between the processes.

        Returns:
            Entries of a checkpoint.
        """
        states = exchange.gather((get_random_state(device), _gradients(network), metrics.counts()))
        random_states, gradients, counts = zip(*states, strict=True)
        return {
            "random_states": list(random_states),
            "pending_gradients": list(gradients),
            "train_counts": _counted_together(counts),
        }

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the states from a checkpoint; they wait until `restore`.

        Args:
            checkpoint: With the entries of `save`.
        """
        self.random = checkpoint.get("random_states", [])
        self.gradients = checkpoint.get("pending_gradients", [])

    def restore(self, network: nn.Module, device: torch.device, rank: int, world_size: int) -> None:
        """Go on where the run was saved.

        Args:
            network: Which gets the gradients back that waited: each process its own, or the first one all.
            device: Whose random state is set.
            rank: Of this process, among those that share batches out.
            world_size: How many of them there are now.
        """
        if self.random:
            # with more processes than before, the new ones take the last one's
            set_random_state(self.random[min(rank, len(self.random) - 1)], device)
        gradients: Mapping[str, Tensor] = {}
        if len(self.gradients) == world_size:
            gradients = self.gradients[rank]
        elif rank == 0:
            gradients = _added_up(self.gradients)
        for name, parameter in network.named_parameters():
            if name in gradients and not parameter.is_meta:
                parameter.grad = gradients[name].to(parameter)
        self.random = []
        self.gradients = []


def _gradients(network: nn.Module) -> dict[str, Tensor]:
    """What waits for the rest of its window, on the CPU; nothing right after a step."""
    gradients: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.cpu()
    return gradients


def _counted_together(counts: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> dict[str, dict[str, Tensor]]:
    """The counts of all processes in one."""
    together: dict[str, dict[str, Tensor]] = {}
    for name, states in counts[0].items():
        together[name] = {}
        for key in states:
            together[name][key] = torch.stack([of_process[name][key] for of_process in counts]).sum(0)
    return together


def _added_up(gradients_by_process: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The gradients of all processes in one."""
    sums: dict[str, Tensor] = {}
    for gradients in gradients_by_process:
        for name, gradient in gradients.items():
            sums[name] = sums[name] + gradient if name in sums else gradient
    return sums
