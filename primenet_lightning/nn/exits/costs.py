"""What exits cost, and what images cost as they really leave."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from primenet_lightning.nn.exits.network import ExitNetwork, answers
from primenet_lightning.nn.exits.thresholds import confidences, exits_taken
from primenet_lightning.nn.prime.capsules import ConvFeatures


def exit_costs(network: ExitNetwork, in_shape: tuple[int, ...], as_run: bool = False) -> list[int]:
    """Count the multiply-adds of one image up to each exit, on real forwards of a copy.

    The convention is that of `primenet_lightning.analysis.cost.count_cost`: a multiplication and its addition are one;
    convolutions and matrix products count, norms, activations and poolings do not. An image that passes an exit has
    paid for its classifier.

    Args:
        network: A module with several exits, which is left as it was.
        in_shape: Of one image, without the batch.
        as_run: Count what is computed, with pairs of convolutions folded into one where `ConvFeatures` does so. False
            counts layer by layer.

    Returns:
        Multiply-adds, one an exit, rising.
    """
    copied = copy.deepcopy(network)
    assert isinstance(copied, nn.Module)
    copied.cpu().float().eval()
    for part in copied.modules():
        if isinstance(part, ConvFeatures):
            part.folds &= as_run
    # what one image more costs: products of weights are made once a batch
    fewer, more = (_operations(copied, torch.zeros(batch, *in_shape, device="cpu")) for batch in (1, 2))
    return [(after - before) // 2 for before, after in zip(fewer, more, strict=True)]


@torch.no_grad()
def _operations(network: ExitNetwork, images: Tensor) -> list[int]:
    """Operations up to each exit; torch's counter takes a multiplication and its addition for two."""
    totals: list[int] = []
    with FlopCounterMode(display=False) as counter:
        for _ in answers(network, images):
            totals.append(int(counter.get_total_flops()))
    return totals


class Spent(NamedTuple):
    """What thresholds come to on images.

    Attributes:
        error: Of the answers at the exits taken, in %.
        multiply_adds: Mean of those that an image took.
        shares: Of the images, one an exit.
    """

    error: float
    multiply_adds: float
    shares: list[float]


def spent(confidence: Tensor, wrong: Tensor, costs: Sequence[float], thresholds: Sequence[float]) -> Spent:
    """Tell error and mean cost of images that leave by thresholds.

    Args:
        confidence: Of each exit on the images, ``(exits, images)``.
        wrong: Whether each exit's answer is wrong, ``(exits, images)``.
        costs: Of an image that leaves at each exit.
        thresholds: One an exit.

    Returns:
        Both, and where the images left.

    Raises:
        ValueError: If there are not as many costs as exits.

    Example:
        >>> sure = torch.tensor([[0.9, 0.6, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9]])
        >>> wrong = torch.tensor([[False, True, True, False], [False, False, False, False]])
        >>> spent(sure, wrong, costs=[10, 30], thresholds=[0.8, 0.0])
        Spent(error=25.0, multiply_adds=15.0, shares=[0.75, 0.25])
    """
    if len(costs) != len(confidence):
        raise ValueError(f"costs={list(costs)} are {len(costs)} for {len(confidence)} exits; give one an exit")
    taken = exits_taken(confidence, thresholds).cpu()
    paid = torch.tensor(list(costs), dtype=torch.float64)[taken]
    mistaken = wrong.cpu().gather(0, taken[None])[0]
    counts = torch.bincount(taken, minlength=len(costs))
    shares = (counts / len(taken)).tolist()
    return Spent(100 * mistaken.double().mean().item(), paid.mean().item(), shares)


class ExitRecord:
    """How sure the exits were of images, and where they were wrong, batch by batch.

    Example:
        >>> record = ExitRecord()
        >>> record.add([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 9.0]])], torch.tensor([1]))
        >>> record.confidence, record.wrong
        (tensor([[0.5000],
                [0.9999]]), tensor([[ True],
                [False]]))
    """

    def __init__(self) -> None:
        self._confidences: list[Tensor] = []
        self._wrong: list[Tensor] = []

    def add(self, logits: Sequence[Tensor], target: Tensor) -> None:
        """Take the answers to a batch.

        Args:
            logits: ``(batch, classes)`` of each exit.
            target: Class indices, ``(batch,)``.
        """
        stacked = torch.stack(list(logits))
        self._confidences.append(confidences(stacked).cpu())
        self._wrong.append((stacked.argmax(-1) != target).cpu())

    @property
    def is_empty(self) -> bool:
        """Whether no batch was taken."""
        return not self._confidences

    @property
    def confidence(self) -> Tensor:
        """Of each exit on all images, ``(exits, images)``."""
        return torch.cat(self._confidences, 1)

    @property
    def wrong(self) -> Tensor:
        """Whether each exit's answer is wrong, bool ``(exits, images)``."""
        return torch.cat(self._wrong, 1)

    def extend(self, other: "ExitRecord") -> None:
        """Take what another process has taken.

        Args:
            other: Its record.
        """
        self._confidences += other._confidences
        self._wrong += other._wrong

    def reset(self) -> None:
        """Forget everything."""
        self._confidences.clear()
        self._wrong.clear()
