"""The state of all random number generators, as a checkpoint holds it."""

import random
from typing import Any

import numpy as np
import torch


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
