"""The wrong answers of a classifier: the worst of them, with their images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass
class WrongAnswers:
    """Wrong answers, worst first; every tensor is on the CPU and a copy.

    Attributes:
        loss: The head's cross-entropy in nats, ``(errors,)``.
        images: As the network saw them, normalised, ``(errors, channels, height, width)``.
        true: Class indices, ``(errors,)``, int64.
        predicted: Class indices, ``(errors,)``, int64.
        p_true: Probability given to the true class, ``(errors,)``.
        p_predicted: Probability given to the predicted class, ``(errors,)``.
    """

    loss: Tensor
    images: Tensor
    true: Tensor
    predicted: Tensor
    p_true: Tensor
    p_predicted: Tensor

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def of_batch(cls, logits: Tensor, images: Tensor, labels: Tensor, count: int, above: float) -> "WrongAnswers":
        """Copy the worst wrong answers of a batch.

        Args:
            logits: ``(batch, classes)``.
            images: ``(batch, channels, height, width)``.
            labels: Class indices, ``(batch,)``.
            count: How many at most.
            above: Only losses above this one.

        Returns:
            Those of largest cross-entropy, worst first.

        Example:
            >>> logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
            >>> errors = WrongAnswers.of_batch(logits, torch.zeros(3, 1, 8, 8), torch.tensor([0, 0, 0]), 5, above=0.0)
            >>> errors.predicted, errors.loss
            (tensor([1, 1]), tensor([3.0486, 1.3133]))
        """
        # the places of the worst
        logits = logits.detach().float()
        predicted = logits.argmax(1)
        loss = cross_entropy(logits, labels, reduction="none")
        loss = loss.masked_fill(predicted == labels, -torch.inf)
        places = loss.topk(min(count, len(loss))).indices
        places = places[loss[places] > above]

        # what there is to tell of them; indexing by a tensor copies
        true, predicted = labels[places], predicted[places]
        probabilities = logits[places].softmax(1)
        return cls(
            loss[places].cpu(),
            images[places].cpu(),
            true.cpu(),
            predicted.cpu(),
            _of_class(probabilities, true).cpu(),
            _of_class(probabilities, predicted).cpu(),
        )

    @classmethod
    def worst_of(cls, several: Sequence["WrongAnswers"], count: int) -> "WrongAnswers":
        """Merge, and keep the worst.

        Args:
            several: At least one.
            count: How many at most.

        Returns:
            Those of largest cross-entropy among all, worst first.
        """
        losses = torch.cat([answers.loss for answers in several])
        places = losses.topk(min(count, len(losses))).indices
        columns: list[Tensor] = []
        for column in fields(cls):
            joined = torch.cat([getattr(answers, column.name) for answers in several])
            columns.append(joined[places])
        return cls(*columns)


def _of_class(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Each row's probability of one class."""
    return probabilities.gather(1, classes[:, None])[:, 0]


def errors_table(
    errors: WrongAnswers, pixels: Sequence[Any], names: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """List errors with their images.

    Args:
        errors: The errors.
        pixels: Their images, uint8 arrays.
        names: What the classes are called.

    Returns:
        Names of the columns, and the rows; without errors, no column for images.
    """
    columns = ["image", "true", "predicted", "loss (nats)", "p(true)", "p(predicted)"]
    if not len(errors):
        return columns[1:], []
    numbers = [column.tolist() for column in (errors.loss, errors.p_true, errors.p_predicted)]
    rows: list[list[Any]] = []
    for image, true, predicted, *others in zip(
        pixels, errors.true.tolist(), errors.predicted.tolist(), *numbers, strict=True
    ):
        rows.append([image, names[true], names[predicted], *others])
    return columns, rows


def confusion_table(confusion: Tensor, names: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """List the counts of a confusion matrix.

    Args:
        confusion: Images by true class (row) and predicted class (column), ``(classes, classes)``.
        names: What the classes are called.

    Returns:
        Names of the columns, and the rows.

    Example:
        >>> confusion_table(torch.tensor([[9, 1], [0, 8]]), ["cat", "dog"])
        (['true', 'as cat', 'as dog'], [['cat', 9, 1], ['dog', 0, 8]])
    """
    columns = ["true", *(f"as {name}" for name in names)]
    return columns, [[name, *counts] for name, counts in zip(names, confusion.tolist(), strict=True)]
