"""The error of a network with attention against its glimpses: by threshold, and by a fixed number of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from primenet_lightning.baselines.dt_ram.network import AttentionNetwork


class ThresholdRow(NamedTuple):
    """What one threshold gives.

    Attributes:
        threshold: Of the probability of stopping.
        error: In %.
        multiply_adds: Mean of those that an image took, decisions included.
        steps: Mean number of glimpses.
    """

    threshold: float
    error: float
    multiply_adds: float
    steps: float


def threshold_curve(
    network: AttentionNetwork, images: Tensor, labels: Tensor, thresholds: Sequence[float], batch_size: int = 500
) -> list[ThresholdRow]:
    """Tabulate error and mean cost by threshold.

    Args:
        network: Whose stop policy has learned.
        images: Normalised, ``(images, *in_shape)``; held out where a threshold is to be chosen.
        labels: Class indices, ``(images,)``.
        thresholds: Within 0 and 1.
        batch_size: Images at a time.

    Returns:
        One row a threshold.

    Raises:
        ValueError: If a threshold is no probability, there are no images, or the policy has not begun to learn.

    Example:
        >>> from primenet_lightning.baselines.dt_ram import RecurrentAttention
        >>> from primenet_lightning.nn.systems.phases import Position
        >>> network = AttentionNetwork(RecurrentAttention((1, 28, 28), 10), (1, 28, 28))
        >>> network.position = Position(100, 100)
        >>> rows = threshold_curve(network, torch.zeros(2, 1, 28, 28), torch.tensor([0, 1]), [0.0, 1.0])
        >>> [(row.steps, row.multiply_adds) for row in rows]
        [(1.0, 208384.0), (7.0, 1770752.0)]
    """
    for threshold in thresholds:
        check_threshold(threshold)
    if network.decides and not network.stops:
        raise ValueError("stop_share=0 has no stop policy that learns; use errors_by_step, or train with a stop_share")
    if not network.stops:
        raise ValueError(
            f"network is in its phase {network.phase!r}, before its stop policy learned; fit it to the end first"
        )
    answers, stop = _unrolled(network, images, batch_size)
    rows: list[ThresholdRow] = []
    for threshold in thresholds:
        last = torch.ones_like(stop[:, :1], dtype=torch.bool)
        taken = torch.cat([stop > threshold, last], dim=1).int().argmax(1)  # the first of them
        wrong = answers.gather(1, taken[:, None])[:, 0] != labels
        cost = network.multiply_adds(taken + 1).mean().item()
        rows.append(ThresholdRow(threshold, _percent(wrong), cost, (taken + 1).double().mean().item()))
    return rows


def errors_by_step(network: AttentionNetwork, images: Tensor, labels: Tensor, batch_size: int = 500) -> list[float]:
    """Tell the error if all images were answered after the same number of glimpses.

    Where later glimpses add nothing, the gaze is frozen: it always looks at the same place.

    Args:
        network: With attention.
        images: Normalised, ``(images, *in_shape)``.
        labels: Class indices, ``(images,)``.
        batch_size: Images at a time.

    Returns:
        Errors in %, of one glimpse, of two, and so on.

    Raises:
        ValueError: If there are no images.
    """
    answers, _ = _unrolled(network, images, batch_size)
    return [_percent(of_step != labels) for of_step in answers.unbind(1)]


def check_threshold(threshold: float) -> None:
    """Refuse what is no threshold of a probability.

    Args:
        threshold: Given by the user.

    Raises:
        ValueError: If it is not within 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is no probability; give 0 (one glimpse each) to 1 (all glimpses)")


def _unrolled(network: AttentionNetwork, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Classes answered at each step, ``(images, steps)``, and probabilities of stopping."""
    if not len(images):
        raise ValueError("images are none; give at least one")
    answers: list[Tensor] = []
    stops: list[Tensor] = []
    for batch in torch.split(images, batch_size):
        logits, stop = network.unroll(batch)
        answers.append(logits.argmax(2))
        stops.append(stop)
    return torch.cat(answers), torch.cat(stops)


def _percent(wrong: Tensor) -> float:
    return 100 * wrong.double().mean().item()
