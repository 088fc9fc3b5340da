"""The vote of several classifiers, such as a block's capsules."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from primenet_lightning.nn.layers import at_least_float32


def majority_vote(logits: Sequence[Tensor]) -> Tensor:
    r"""Let classifiers vote: the class that most of them put first wins.

    Among classes with the same number of votes the one of the larger summed log-probability,
    :math:`\sum_k \log p_k(c \mid x)`, wins; of two that agree in this too, the first.

    Args:
        logits: One ``(batch, classes)`` a voter.

    Returns:
        Class indices, ``(batch,)``, int64.

    Raises:
        ValueError: If nobody votes, or the voters' shapes differ.

    Example:
        >>> one, other, third = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[9.0, 0.0]])
        >>> majority_vote([one, other, third]), majority_vote([one, third])
        (tensor([1]), tensor([0]))
    """
    shapes = {tuple(scores.shape) for scores in logits}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        raise ValueError(f"logits have the shapes {sorted(shapes)}; give at least one, and all as (batch, classes)")
    scores = at_least_float32(torch.stack(list(logits)))
    votes = functional.one_hot(scores.argmax(2), scores.shape[2]).sum(0)
    tied = votes == votes.amax(1, keepdim=True)
    return scores.log_softmax(2).sum(0).where(tied, -torch.inf).argmax(1)
