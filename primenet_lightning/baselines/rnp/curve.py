"""The error of a pruned network against its cost, by the balance between the two."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from primenet_lightning.baselines.rnp.decisions import check_balance
from primenet_lightning.baselines.rnp.network import PruningNetwork


class BalanceRow(NamedTuple):
    """What one balance gives.

    Attributes:
        balance: Delta.
        error: In %.
        multiply_adds: Mean of those that an image took, the agent's own included.
        channels: Mean share of its channels that was computed, of each layer but the first.
    """

    balance: float
    error: float
    multiply_adds: float
    channels: list[float]


def balance_curve(
    network: PruningNetwork, images: Tensor, labels: Tensor, balances: Sequence[float], batch_size: int = 500
) -> list[BalanceRow]:
    """Tabulate error and mean cost by balance.

    Args:
        network: Whose agent has learned; its own balance is left as it was.
        images: Normalised, ``(images, *in_shape)``.
        labels: Class indices, ``(images,)``.
        balances: Deltas: below 0 less is computed, above 0 more.
        batch_size: Images at a time.

    Returns:
        One row a balance.

    Raises:
        ValueError: If there are no images, or not as many as labels; if a balance is infinite; or if the agent has not
            begun to learn, so that no balance would be heeded.

    Example:
        >>> from primenet_lightning.baselines.rnp import PrunableConvNet
        >>> from primenet_lightning.nn.systems.phases import Position
        >>> network = PruningNetwork(PrunableConvNet((1, 8, 8), 10, (8, 16), (1,)), (1, 8, 8))
        >>> network.position = Position(100, 100)
        >>> rows = balance_curve(network, torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), [-9.0, 9.0])
        >>> [(row.multiply_adds, row.channels) for row in rows]
        [(34600.0, [0.25]), (48544.0, [1.0])]
    """
    _refuse_images(images, labels)
    for balance in balances:
        check_balance(balance)
    if not network.decides:
        raise ValueError(
            f"network is in its phase {network.phase!r}, before its agent learned; fit it to the end first"
        )
    layers = [name for name in network.measure_names if name.startswith("channels/")]
    before, balance_before = network.training, network.balance
    rows: list[BalanceRow] = []
    try:
        network.eval()
        for balance in balances:
            network.balance = balance
            totals = torch.zeros(2 + len(layers), dtype=torch.float64, device=images.device)
            for batch, target in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
                answer = network.classify(batch)
                wrong = (answer.logits.argmax(1) != target).double()
                sums = [wrong, answer.multiply_adds, *(answer.measures[name] for name in layers)]
                totals += torch.stack([values.double().sum() for values in sums])
            error, cost, *channels = (totals / len(images)).tolist()
            rows.append(BalanceRow(balance, 100 * error, cost, channels))
    finally:
        network.balance = balance_before
        network.train(before)
    return rows


class WidthRow(NamedTuple):
    """What one width gives, which is the same for all images and layers.

    Attributes:
        groups: Groups computed.
        error: In %.
        multiply_adds: Of an image; nothing is decided.
    """

    groups: int
    error: float
    multiply_adds: float


@torch.no_grad()
def width_curve(network: PruningNetwork, images: Tensor, labels: Tensor, batch_size: int = 500) -> list[WidthRow]:
    """Tabulate error and cost of the same network without its agent, at each width: what the agent has to beat.

    Args:
        network: After its random pruning, so that it bears every width.
        images: Normalised, ``(images, *in_shape)``.
        labels: Class indices, ``(images,)``.
        batch_size: Images at a time.

    Returns:
        One row a number of groups, from 1.

    Raises:
        ValueError: If there are no images, or not as many as labels.

    Example:
        >>> from primenet_lightning.baselines.rnp import PrunableConvNet
        >>> network = PruningNetwork(PrunableConvNet((1, 8, 8), 10, (8, 16), (1,)), (1, 8, 8))
        >>> rows = width_curve(network, torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))
        >>> [(row.groups, row.multiply_adds) for row in rows]
        [(1, 9256.0), (2, 13904.0), (3, 18552.0), (4, 23200.0)]
    """
    _refuse_images(images, labels)
    backbone = network.backbone
    rows: list[WidthRow] = []
    for groups in range(1, backbone.groups + 1):
        wrong = 0
        for batch, target in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            logits = backbone(batch, partial(_same_for_all, groups=groups))
            wrong += int((logits.argmax(1) != target).sum())
        chosen = torch.full((1, backbone.layers), groups)
        chosen[:, 0] = backbone.groups  # of the first layer all is computed
        cost = network.multiply_adds(chosen, decided=False).item()
        rows.append(WidthRow(groups, 100 * wrong / len(images), cost))
    return rows


def _same_for_all(x: Tensor, groups: int) -> Tensor:
    return torch.full((len(x),), groups, device=x.device)


def _refuse_images(images: Tensor, labels: Tensor) -> None:
    if not len(images):
        raise ValueError("images are none; give at least one")
    if len(images) != len(labels):
        raise ValueError(f"images are {len(images)}, but labels {len(labels)}; give one label an image")
