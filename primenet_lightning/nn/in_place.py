"""Layers that change their input in place, where others see the same input."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def unchanged(x: Tensor, module: str, others: str) -> Iterator[None]:
    """Refuse a module that changes its input in place, which would change what others learn from.

    Args:
        x: The input that is shared, of any shape.
        module: What runs inside, for the sentence.
        others: What else sees the input, for the sentence.

    Yields:
        Nothing.

    Raises:
        ValueError: If the input was changed; it then has changed already.

    Example:
        >>> x = torch.ones(2)
        >>> with unchanged(x, "capsule a", "the other capsules"):
        ...     y = torch.nn.ReLU()(x)
    """
    before = _version(x)
    yield
    if _version(x) != before:
        raise ValueError(
            f"{module} changes its input in place, which {others} see too; let its first layer not work in place, as "
            "nn.ReLU(inplace=False)"
        )


def _version(x: Tensor) -> int:
    """How often a tensor was changed, as autograd counts; nobody counts in inference mode, or when compiled."""
    if torch.compiler.is_compiling() or x.is_inference():
        return 0
    return x._version
