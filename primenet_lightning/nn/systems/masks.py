"""Masks of input channels, one for each group of a convolution's filters.

Filters belong to groups in turn: filter ``o`` to group ``o mod groups``. A mask is ``(groups, in_channels)``, bool, and
true where the filters of a group read a channel.
"""

import torch
from torch import Tensor

from primenet_lightning.nn.layers import at_least_float32

LASSO_FLOOR = 1e-6
"""Least sum of squares in `group_lasso`: the square root has no gradient at zero."""


def masked(weight: Tensor, alive: Tensor) -> Tensor:
    """Set to zero what filters do not read.

    Args:
        weight: Of a convolution, ``(out_channels, in_channels, height, width)``.
        alive: Mask, ``(groups, in_channels)``.

    Returns:
        ``(out_channels, in_channels, height, width)``; the gradient of what is masked is zero.

    Example:
        >>> alive = torch.tensor([[True, False], [False, True]])
        >>> masked(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])[:, :, None, None], alive).flatten(1)
        tensor([[1., 0.],
                [0., 4.],
                [5., 0.],
                [0., 8.]])
    """
    filters = alive.repeat(len(weight) // len(alive), 1)
    return weight * filters[:, :, None, None]


def by_group(values: Tensor, groups: int) -> Tensor:
    """Sum up over the filters of each group.

    Args:
        values: Of a convolution's weights, ``(out_channels, in_channels, height, width)``.
        groups: Groups of filters.

    Returns:
        ``(groups, in_channels)``.

    Example:
        >>> by_group(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1), groups=2)
        tensor([[4.],
                [6.]])
    """
    out_channels, in_channels = values.shape[:2]
    return values.reshape(out_channels // groups, groups, in_channels, -1).sum((0, 3))


def importance(weight: Tensor, alive: Tensor) -> Tensor:
    r"""Tell how much each group reads of each channel: :math:`\sum_{o \in g} |W_{oj}| M_{gj}`.

    Args:
        weight: Of a convolution, ``(out_channels, in_channels, height, width)``.
        alive: Mask, ``(groups, in_channels)``.

    Returns:
        ``(groups, in_channels)``, zero where the channel is masked.

    Example:
        >>> importance(torch.tensor([[1.0, -2.0], [3.0, 4.0]])[:, :, None, None], torch.ones(1, 2, dtype=torch.bool))
        tensor([[4., 6.]])
    """
    return by_group(at_least_float32(masked(weight, alive)).abs(), len(alive))


def without_least(alive: Tensor, scores: Tensor, count: int) -> Tensor:
    """Mask, in each group, the channels of least score among those that are alive.

    Args:
        alive: Mask, ``(groups, in_channels)``.
        scores: ``(groups, in_channels)``; those of masked channels are not looked at.
        count: Channels that each group gives up. Of equal scores the first goes first.

    Returns:
        The new mask, ``(groups, in_channels)``.

    Raises:
        ValueError: If a group has not so many channels.

    Example:
        >>> without_least(torch.tensor([[True, True, False, True]]), torch.tensor([[2.0, 1.0, 0.0, 3.0]]), 1)
        tensor([[ True, False, False,  True]])
    """
    fewest = int(alive.sum(1).min())
    if not 0 <= count <= fewest:
        raise ValueError(f"count={count} channels cannot be given up; a group has {fewest} left")
    order = scores.masked_fill(~alive, torch.inf).argsort(dim=1, stable=True)
    return alive.scatter(1, order[:, :count], False)


def group_lasso(weight: Tensor, alive: Tensor) -> Tensor:
    r"""Penalise channels that a group could do without: :math:`\sum_{g,j} \sqrt{\sum_{o \in g} (W_{oj} M_{gj})^2}`.

    Args:
        weight: Of a convolution, ``(out_channels, in_channels, height, width)``.
        alive: Mask, ``(groups, in_channels)``.

    Returns:
        A scalar. A sum of squares below `LASSO_FLOOR`, as that of a masked channel, counts as that.

    Example:
        >>> group_lasso(torch.ones(8, 4, 1, 1), torch.ones(2, 4, dtype=torch.bool))  # 2 * 4 * sqrt(8 / 2)
        tensor(16.)
    """
    squares = by_group(at_least_float32(masked(weight, alive)).square(), len(alive))
    return squares.clamp(min=LASSO_FLOOR).sqrt().sum()
