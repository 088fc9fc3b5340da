"""What the parts of a system's network come to on the test images, each used alone."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from primenet_lightning.analysis.cost import count_cost
from primenet_lightning.analysis.exits import record_exits
from primenet_lightning.baselines import DTRAMNet, OneNet, RNPNet
from primenet_lightning.baselines.dt_ram import ThresholdRow, threshold_curve
from primenet_lightning.baselines.msdnet.budgeted import BudgetedExits
from primenet_lightning.baselines.rnp import width_curve
from primenet_lightning.datamodules import ImageDataModule, ImageTensors
from primenet_lightning.reproduction._curves import normalized

FEW_GLIMPSES = 4.0
"""Mean glimpses at most, for which a threshold of DT-RAM is chosen."""


class PartPoint(NamedTuple):
    """A part of a network, or a fixed way to use it.

    Attributes:
        name: Of the part.
        error: Test error in %.
        multiply_adds: Of an image.
    """

    name: str
    error: float
    multiply_adds: float


def points_of(model: LightningModule, data: ImageDataModule) -> list[PartPoint]:
    """Test the parts of a trained model; nothing of one that has none.

    Args:
        model: On the CPU.
        data: Set up.

    Returns:
        RNP at each width, the same for all images; exits, each for all images; the branches of ONE, and its teacher.
    """
    if isinstance(model, RNPNet):
        rows = width_curve(model.eval().network, *_pixels_and_labels(model, data, data.test_dataset))
        return [PartPoint(f"{row.groups} of {len(rows)} groups", row.error, row.multiply_adds) for row in rows]
    if isinstance(model, BudgetedExits):
        return _exits(model, data)
    if isinstance(model, OneNet):
        return _branches(model, data)
    return []


def chosen_point(
    model: LightningModule, data: ImageDataModule, curve: Sequence[Mapping[str, float]]
) -> Mapping[str, float] | None:
    """Choose the threshold of DT-RAM on held-out images: of those with few glimpses, the one of least error.

    Args:
        model: On the CPU.
        data: Set up, with validation images.
        curve: Of the test images, by threshold.

    Returns:
        What it comes to on the test images; None for another model, or where none has so few glimpses.
    """
    if not isinstance(model, DTRAMNet):
        return None
    held_out = _pixels_and_labels(model, data, data.validation_dataset)
    rows = threshold_curve(model.eval().network, *held_out, [point["setting"] for point in curve])
    few: list[ThresholdRow] = [row for row in rows if row.steps <= FEW_GLIMPSES]
    if not few:
        return None
    best = min(few, key=lambda row: row.error)
    return curve[rows.index(best)]


def _exits(model: BudgetedExits, data: ImageDataModule) -> list[PartPoint]:
    record = record_exits(model.eval().network.exits, normalized(model, data, data.test_dataset))
    errors = (100 * record.wrong.double().mean(1)).tolist()
    points = zip(errors, model.exit_costs, strict=True)
    return [PartPoint(f"exit {number}", error, cost) for number, (error, cost) in enumerate(points, 1)]


@torch.inference_mode()
def _branches(model: OneNet, data: ImageDataModule) -> list[PartPoint]:
    ensemble = model.eval().network.model
    wrong = torch.zeros(len(ensemble.branches) + 1, dtype=torch.int64)
    for images, target in normalized(model, data, data.test_dataset):
        branches, teacher = ensemble(images)
        logits = [*branches, teacher]
        wrong += torch.stack([(each.argmax(1) != target).sum() for each in logits])
    *errors, teacher_error = (100 * wrong / len(data.test_dataset)).tolist()
    cost = count_cost(model.network).multiply_adds_inference
    points = [PartPoint(f"branch {number}", error, cost) for number, error in enumerate(errors, 1)]
    everyone = copy.deepcopy(model.network)
    everyone.model.predicts = "ensemble"
    return [*points, PartPoint("all branches", teacher_error, count_cost(everyone).multiply_adds_inference)]


def _pixels_and_labels(model: RNPNet | DTRAMNet, data: ImageDataModule, split: ImageTensors) -> tuple[Tensor, Tensor]:
    """All images of a split, normalised, and their labels."""
    pixels, labels = split[torch.arange(len(split))]
    return model.images_of(data.normalize(pixels)), labels
