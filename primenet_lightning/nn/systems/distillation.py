"""Learning from another network's answers (Hinton et al., 2015)."""

from torch import Tensor
from torch.nn import functional

from primenet_lightning.nn.layers import at_least_float32


def distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Compare a student's softened answers with a teacher's, from which no gradient flows back.

    .. math:: T^2\, KL(softmax(t / T)\, ||\, softmax(s / T))

    summed over the classes and averaged over the batch. The factor keeps the gradient's size at all temperatures.

    Args:
        student_logits: s, ``(batch, classes)``.
        teacher_logits: t, ``(batch, classes)``.
        temperature: T, above 0.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> distillation(logits, logits, temperature=3.0)
        tensor(0.)
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; 1 leaves the answers as they are")
    student = functional.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher = functional.log_softmax(at_least_float32(teacher_logits).detach() / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
