r"""Thresholds that spend a budget: MSDNet's *budgeted batch classification* (Huang et al., ICLR 2018, section 4).

Of K exits that cost :math:`C_1 < \dots < C_K` a share :math:`p_k = r^k / \sum_j r^j` of the images shall leave at exit
k. The ratio r follows from the budget, :math:`\sum_k p_k C_k = B`, and the thresholds from the shares, on images that
were held out of training.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from primenet_lightning.arguments import whole_number
from primenet_lightning.nn.layers import at_least_float32

STAYS = math.inf
"""The threshold of an exit at which nobody leaves."""

LEAVES = -math.inf
"""The threshold of an exit at which all leave, as of the last one."""

BISECTIONS = 200
"""Halvings of an interval of doubles, more than any needs."""


def confidences(logits: Tensor) -> Tensor:
    """Tell how sure answers are: by the largest softmax probability.

    Args:
        logits: ``(..., batch, classes)``.

    Returns:
        Of the shape of the logits without the classes, ``(..., batch)``; at least float32.

    Example:
        >>> confidences(torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
        tensor([0.5000, 1.0000])
    """
    return at_least_float32(logits).softmax(-1).amax(-1)


def check_thresholds(thresholds: Sequence[float], exits: int) -> None:
    """Refuse thresholds that do not fit the exits.

    Args:
        thresholds: One an exit.
        exits: How many there are.

    Raises:
        ValueError: If there are not as many thresholds as exits, or one is NaN.

    Example:
        >>> check_thresholds([0.5], exits=2)
        Traceback (most recent call last):
        ...
        ValueError: thresholds=[0.5] are 1 for 2 exits; give one an exit
    """
    if len(thresholds) != exits:
        raise ValueError(f"thresholds={list(thresholds)} are {len(thresholds)} for {exits} exits; give one an exit")
    if any(math.isnan(threshold) for threshold in thresholds):
        raise ValueError(f"thresholds={list(thresholds)} hold NaN; give numbers, 0 (all leave) to 1, or infinities")


def exit_shares(ratio: float, exits: int) -> list[float]:
    r"""Share out images among exits, each of whose shares is that of the exit before times a ratio.

    Args:
        ratio: r, above 0: below 1 most leave early, at 1 equally many at each exit, above 1 most leave late.
        exits: How many there are.

    Returns:
        :math:`p_k`, one an exit; their sum is 1.

    Raises:
        ValueError: If the ratio is not above 0, or there is no exit.

    Example:
        >>> [round(share, 3) for share in exit_shares(0.5, 3)]
        [0.571, 0.286, 0.143]
        >>> exit_shares(1.0, 4)
        [0.25, 0.25, 0.25, 0.25]
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio={ratio} must be above 0 and finite; at 1 all exits have equal shares")
    exponents = torch.arange(whole_number(1, exits=exits), dtype=torch.float64)
    shares: list[float] = (exponents * math.log(ratio)).softmax(0).tolist()
    return shares


def mean_of_shares(costs: Sequence[float], shares: Sequence[float]) -> float:
    """Average costs by the shares of those who pay them.

    Args:
        costs: Of an image that leaves at each exit.
        shares: Of the images, one an exit.

    Returns:
        The mean cost of an image.

    Example:
        >>> mean_of_shares([10, 30], [0.75, 0.25])
        15.0
    """
    return math.fsum(cost * share for cost, share in zip(costs, shares, strict=True))


def ratio_of_budget(costs: Sequence[float], budget: float) -> float:
    """Find the ratio of `exit_shares` whose mean cost is the budget, by bisection.

    Args:
        costs: Of an image that leaves at each exit, rising.
        budget: Mean cost of an image, between the first exit's and the last one's.

    Returns:
        The ratio, above 0.

    Raises:
        ValueError: If the budget is not between these, or the costs do not rise.

    Example:
        >>> round(ratio_of_budget([10, 20, 30], budget=20), 9)
        1.0
    """
    check_costs(costs)
    if not costs[0] < budget < costs[-1]:
        raise ValueError(f"budget={budget} must be between the costs of the first exit and the last, {costs[0]} and "
                         f"{costs[-1]}")  # fmt: skip
    least, most = 0.0, 1.0  # of r / (1 + r), which rises from 0 to 1 with r
    for _ in range(BISECTIONS):
        middle = (least + most) / 2
        if middle in (least, most):
            break
        if mean_of_shares(costs, exit_shares(middle / (1 - middle), len(costs))) < budget:
            least = middle
        else:
            most = middle
    return most / (1 - most)


def check_costs(costs: Sequence[float]) -> None:
    """Refuse costs that do not rise from exit to exit.

    Args:
        costs: Of an image that leaves at each exit.

    Raises:
        ValueError: If there is none, or one is not above the one before.
    """
    rises = all(later > earlier for earlier, later in itertools.pairwise(costs))
    if not costs or not rises:
        raise ValueError(f"costs={list(costs)} must rise from exit to exit")


def thresholds_of_shares(confidence: Tensor, shares: Sequence[float]) -> list[float]:
    """Find thresholds at which given shares of held-out images leave.

    In the order of the exits, among the images that have not left: the threshold is the confidence of the last one of
    the share. So the shares are met to less than an image at the first exit, where no two images are equally sure. All
    that reach a threshold leave, so that of equals none is preferred; an exit with fewer images left than its share
    lets all of them leave.

    Args:
        confidence: Of each exit on the held-out images, ``(exits, images)``, from `confidences`.
        shares: Of the images, one an exit; their sum is 1.

    Returns:
        One threshold an exit; infinite where nobody shall leave, minus infinite at the last.

    Raises:
        ValueError: If there are not as many shares as exits, no images, or a confidence is NaN.

    Example:
        >>> sure = torch.tensor([[0.9, 0.8, 0.5, 0.7], [0.9, 0.9, 0.6, 0.8], [1.0, 1.0, 1.0, 1.0]])
        >>> [round(threshold, 2) for threshold in thresholds_of_shares(sure, [0.5, 0.25, 0.25])]
        [0.8, 0.8, -inf]
    """
    exits, images = confidence.shape
    if len(shares) != exits:
        raise ValueError(f"shares={list(shares)} are {len(shares)} for {exits} exits; give one an exit")
    if images == 0:
        raise ValueError("confidence has no images; thresholds are found on held-out images, so hold some out")
    if confidence.isnan().any():
        raise ValueError("confidence holds NaN; the network's answers are not finite")
    thresholds: list[float] = []
    staying = torch.ones(images, dtype=torch.bool, device=confidence.device)
    for sure, share in zip(confidence[:-1], shares[:-1], strict=True):
        wanted = math.floor(share * images + 1e-9)  # shares are rounded: a tenth of 30 images are 3
        left = sure[staying]
        if wanted == 0:
            thresholds.append(STAYS)
            continue
        if len(left) == 0:
            thresholds.append(LEAVES)
            continue
        thresholds.append(float(left.sort(descending=True).values[min(wanted, len(left)) - 1]))
        staying &= sure < thresholds[-1]
    return [*thresholds, LEAVES]


def thresholds_of_budget(confidence: Tensor, costs: Sequence[float], budget: float) -> list[float]:
    """Find thresholds at which held-out images cost a budget in the mean.

    With K exits and N images, none equally sure, the mean is at most ``(K - 1) (costs[-1] - costs[0]) / N`` above it.

    Args:
        confidence: Of each exit on the held-out images, ``(exits, images)``, from `confidences`.
        costs: Of an image that leaves at each exit, rising.
        budget: Mean cost of an image. From the last exit's cost on, all images go there.

    Returns:
        One threshold an exit.

    Raises:
        ValueError: If the budget is below the first exit's cost, or costs and confidences do not fit.

    Example:
        >>> sure = torch.tensor([[0.9, 0.8, 0.5, 0.7], [1.0, 1.0, 1.0, 1.0]])
        >>> [round(threshold, 2) for threshold in thresholds_of_budget(sure, costs=[10, 30], budget=15)]
        [0.7, -inf]
    """
    check_costs(costs)
    check_budget(budget, costs)
    exits = len(costs)
    if len(confidence) != exits:
        raise ValueError(f"costs={list(costs)} are {exits} for {len(confidence)} exits; give one an exit")
    if budget >= costs[-1]:
        return [*[STAYS] * (exits - 1), LEAVES]
    if budget == costs[0]:
        return [LEAVES] * exits
    return thresholds_of_shares(confidence, exit_shares(ratio_of_budget(costs, budget), exits))


def check_budget(budget: float, costs: Sequence[float]) -> None:
    """Refuse a budget that no exit fits.

    Args:
        budget: Multiply-adds of an image.
        costs: Of an image that leaves at each exit, rising.

    Raises:
        ValueError: If it is below the first exit's cost, or NaN.
    """
    if not budget >= costs[0]:
        raise ValueError(
            f"budget={budget} is below {costs[0]}, what an image costs that leaves at the first exit; give that or more"
        )


def exits_taken(confidence: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Tell where images leave.

    Args:
        confidence: Of each exit on the images, ``(exits, images)``, from `confidences`.
        thresholds: One an exit; the last exit's is not looked at.

    Returns:
        Exit indices, int64 ``(images,)``.

    Raises:
        ValueError: If there are not as many thresholds as exits.

    Example:
        >>> exits_taken(torch.tensor([[0.4, 0.9], [0.6, 0.9], [0.6, 0.9]]), [0.8, 0.7, 0.9])
        tensor([2, 0])
    """
    check_thresholds(thresholds, len(confidence))
    limits = torch.tensor(list(thresholds), dtype=torch.float64, device=confidence.device)
    leaves = confidence.double() >= limits[:, None]
    leaves[-1] = True
    return leaves.int().argmax(0)  # the first of them


def anytime_exit(costs: Sequence[float], budget: float) -> int:
    """Find the exit that answers when there is so much to spend on each image: the last that can be paid.

    Args:
        costs: Of an image that leaves at each exit, rising.
        budget: Of each image.

    Returns:
        Index of the exit.

    Raises:
        ValueError: If even the first exit costs more, or the costs do not rise.

    Example:
        >>> anytime_exit([10, 30, 70], budget=69)
        1
    """
    check_costs(costs)
    check_budget(budget, costs)
    affordable = [index for index, cost in enumerate(costs) if cost <= budget]
    return affordable[-1]


def anytime_thresholds(costs: Sequence[float], budget: float) -> list[float]:
    """Give the thresholds at which all images leave at the exit of `anytime_exit`.

    Args:
        costs: Of an image that leaves at each exit, rising.
        budget: Of each image.

    Returns:
        One threshold an exit.

    Raises:
        ValueError: If even the first exit costs more, or the costs do not rise.

    Example:
        >>> anytime_thresholds([10, 30, 70], budget=69)
        [inf, -inf, -inf]
    """
    answering = anytime_exit(costs, budget)
    return [*[STAYS] * answering, *[LEAVES] * (len(costs) - answering)]
