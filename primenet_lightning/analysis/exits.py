"""What a network of several exits makes of data: error beside mean cost, for any budget."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.nn.exits.costs import ExitRecord, Spent, spent
from primenet_lightning.nn.exits.network import ExitNetwork, answers
from primenet_lightning.nn.exits.thresholds import thresholds_of_budget


@torch.no_grad()
def record_exits(network: ExitNetwork, batches: Iterable[tuple[Tensor, Tensor]]) -> ExitRecord:
    """Ask all exits about all images.

    Args:
        network: With several exits, in evaluation mode: the ``network.exits`` of an `MSDNet`, or `LocalExits` of a
            `PrimeNet` or `CutNet`.
        batches: Images, normalised, ``(batch, channels, height, width)``, and class indices, ``(batch,)``.

    Returns:
        How sure the exits are, and where they are wrong.

    Raises:
        ValueError: If the network is in training mode, or there are no batches.
    """
    if isinstance(network, nn.Module) and network.training:
        raise ValueError("network is in training mode, where its answers depend on the batch; call eval() first")
    record = ExitRecord()
    for images, target in batches:
        record.add(list(answers(network, images)), target)
    if record.is_empty:
        raise ValueError("batches are none; give a loader with images")
    return record


class BudgetPoint(NamedTuple):
    """A point of the curve of budgets.

    Attributes:
        budget: Mean multiply-adds of an image that the thresholds were found for.
        thresholds: One an exit.
        spent: What they come to on the images they were not found on.
    """

    budget: float
    thresholds: list[float]
    spent: Spent


def budget_curve(
    held_out: ExitRecord, test: ExitRecord, costs: Sequence[float], budgets: Sequence[float]
) -> list[BudgetPoint]:
    """Find thresholds on held-out images for several budgets, and tell what they come to on others.

    Args:
        held_out: Of images that were neither trained nor are tested on.
        test: Of the others.
        costs: Of an image that leaves at each exit, from `primenet_lightning.nn.exits.costs.exit_costs`.
        budgets: Mean cost of an image.

    Returns:
        One point a budget.

    Raises:
        ValueError: If a budget is below the first exit's cost.

    Example:
        >>> record = ExitRecord()
        >>> unsure, sure = torch.tensor([0.5, 0.0]), torch.tensor([9.0, 0.0])
        >>> record.add([torch.stack([unsure, sure]), torch.stack([-sure, sure])], torch.tensor([1, 0]))
        >>> for point in budget_curve(record, record, costs=[10, 30], budgets=[20, 30]):
        ...     print(point.spent)
        Spent(error=0.0, multiply_adds=20.0, shares=[0.5, 0.5])
        Spent(error=0.0, multiply_adds=30.0, shares=[0.0, 1.0])
    """
    points: list[BudgetPoint] = []
    for budget in budgets:
        thresholds = thresholds_of_budget(held_out.confidence, costs, budget)
        points.append(BudgetPoint(budget, thresholds, spent(test.confidence, test.wrong, costs, thresholds)))
    return points
