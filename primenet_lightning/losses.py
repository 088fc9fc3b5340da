"""Local losses: what a capsule learns from."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

LocalLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits ``(batch, classes)`` and targets ``(batch,)`` to a scalar."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    r"""Mean cross-entropy of a batch, equation 1 of the paper: :math:`L_{local} = CE(y, f(x; \theta))`.

    It is computed in float32 whatever the precision of the network, because the loss is also what routing
    compares: in bfloat16 two capsules less than 0.4 % apart would tie.

    Args:
        logits: Unnormalised scores, ``(batch, classes)``, any floating dtype.
        target: Class indices, ``(batch,)``, int64.

    Returns:
        A scalar, in nats; float64 if the logits are float64, else float32.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))  # ln 4
        tensor(1.3863)
    """
    return functional.cross_entropy(logits if logits.dtype.itemsize >= 4 else logits.float(), target)
