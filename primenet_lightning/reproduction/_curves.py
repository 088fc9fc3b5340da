"""Error against cost of networks that compute less for some images, on the test images as really classified."""

from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from primenet_lightning.analysis.exits import budget_curve, record_exits
from primenet_lightning.analysis.passes import in_batches
from primenet_lightning.baselines import DTRAMNet, RNPNet
from primenet_lightning.baselines.dt_ram import threshold_curve
from primenet_lightning.baselines.msdnet.budgeted import BudgetedExits
from primenet_lightning.baselines.rnp import balance_curve
from primenet_lightning.datamodules import ImageDataModule, ImageTensors

BUDGETS = (0.2, 0.35, 0.5, 0.75, 1.0)
"""Of networks with several exits: the mean of an image, as a share of the last exit's cost."""

BALANCES = (-1.0, -0.3, -0.1, 0.0, 0.1, 0.3, 1.0)
"""Of RNP; it learned at 0."""

STOPPING_THRESHOLDS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Of DT-RAM; its model stops at 0.5."""


class Point(TypedDict):
    """Of a curve: the setting, the error in %, and the mean multiply-adds of an image."""

    setting: float
    error: float
    multiply_adds: float


class GlimpsesPoint(Point):
    """Of DT-RAM's curve: with the mean number of glimpses."""

    steps: float


def curve_of(model: LightningModule, data: ImageDataModule) -> list[Point]:
    """Measure a trained model at each of its settings; nothing of a model that has none.

    Args:
        model: On the CPU.
        data: Set up; thresholds of exits are found on its validation images, if there are any.

    Returns:
        The points, by setting.
    """
    if isinstance(model, RNPNet):
        return _by_balance(model, data)
    if isinstance(model, DTRAMNet):
        return _by_threshold(model, data)
    if isinstance(model, BudgetedExits) and len(data.validation_dataset):
        return _by_budget(model, data)
    return []


def _by_balance(model: RNPNet, data: ImageDataModule) -> list[Point]:
    images, labels = _all_images(model, data)
    rows = balance_curve(model.network, images, labels, BALANCES)
    return [Point(setting=row.balance, error=row.error, multiply_adds=row.multiply_adds) for row in rows]


def _by_threshold(model: DTRAMNet, data: ImageDataModule) -> list[Point]:
    images, labels = _all_images(model, data)
    points: list[Point] = []
    for row in threshold_curve(model.network, images, labels, STOPPING_THRESHOLDS):
        point = GlimpsesPoint(setting=row.threshold, error=row.error, multiply_adds=row.multiply_adds, steps=row.steps)
        points.append(point)
    return points


def _all_images(model: Any, data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """The test images, normalised, and their labels."""
    pixels, labels = data.test_dataset[torch.arange(len(data.test_dataset))]
    images: Tensor = model.images_of(data.normalize(pixels))
    return images, labels


def _by_budget(model: BudgetedExits, data: ImageDataModule) -> list[Point]:
    exits, costs = model.eval().network.exits, model.exit_costs
    held_out = record_exits(exits, normalized(model, data, data.validation_dataset))
    test = record_exits(exits, normalized(model, data, data.test_dataset))
    budgets = [max(costs[0], share * costs[-1]) for share in BUDGETS]
    points: list[Point] = []
    for share, point in zip(BUDGETS, budget_curve(held_out, test, costs, budgets), strict=True):
        points.append(Point(setting=share, error=point.spent.error, multiply_adds=point.spent.multiply_adds))
    return points


def normalized(model: Any, data: ImageDataModule, split: ImageTensors) -> Iterator[tuple[Tensor, Tensor]]:
    """Give a split to a model in batches, in order.

    Args:
        model: An `ImageClassifier`.
        data: Set up.
        split: Of it.

    Yields:
        Images as the model takes them, ``(batch, channels, height, width)``, and class indices, ``(batch,)``.
    """
    for pixels, target in in_batches(split, 500):
        yield model.images_of(data.normalize(pixels)), target
