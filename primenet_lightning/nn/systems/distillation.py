"""Losses by which a network learns from the answers of another one, or of its own ensemble."""

import math

from torch import Tensor
from torch.nn import functional

from primenet_lightning.nn.layers import at_least_float32


def distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Divergence of a student's softened answers from the teacher's (Hinton, Vinyals and Dean, 2015).

    .. math:: T^2 \, \mathrm{KL}\big(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(s / T)\big)

    summed over classes and averaged over the batch; :math:`T^2` keeps the size of the gradients, which by the student's
    logits are :math:`T \, (\mathrm{softmax}(s / T) - \mathrm{softmax}(t / T)) / N` for :math:`N` images. The teacher
    gets none. Like all losses it is computed in float32 at least.

    Args:
        student_logits: :math:`s`, ``(batch, classes)``.
        teacher_logits: :math:`t`, ``(batch, classes)``; detached.
        temperature: :math:`T`; the higher, the softer.

    Returns:
        A scalar, in nats, at least 0.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> import torch
        >>> distillation(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), temperature=2.0)
        tensor(0.4438)
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; 1 leaves the answers as they are")
    expected = functional.log_softmax(at_least_float32(teacher_logits.detach()) / temperature, dim=1)
    given = functional.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    divergence = functional.kl_div(given, expected, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def rise(epoch: float, length: float) -> float:
    r"""Weight of a loss that comes in slowly: :math:`\exp(-5 (1 - \min(e, R) / R)^2)` (Laine and Aila, 2017).

    Args:
        epoch: :math:`e`, from 0.
        length: :math:`R`, after which it is 1; 0 gives 1 from the start.

    Returns:
        In (0, 1].

    Example:
        >>> [round(rise(epoch, 80), 4) for epoch in (0, 20, 40, 60, 80)]
        [0.0067, 0.0601, 0.2865, 0.7316, 1.0]
    """
    if length <= 0:
        return 1.0
    missing = 1 - min(epoch, length) / length
    return math.exp(-5 * missing**2)
