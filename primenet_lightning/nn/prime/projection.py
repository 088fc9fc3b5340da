"""S(x) of equation 5: what of a block's input goes on beside the capsules' map."""

import math

from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.nn.fast import run_pool
from primenet_lightning.nn.layers import glorot_, size_after
from primenet_lightning.nn.layout import channels_last


class Projection(nn.Sequential, metaclass=CheckedArguments):
    """S(x) of equation 5: 3x3 max pool, 1x1 convolution, ReLU, on the same input as the capsules.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the projection.
        pool: Replaces the 3x3 max pool of stride 1, where the maps are smaller than the input.

    Example:
        >>> import torch
        >>> Projection(3, 16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16, 32, 32])
    """

    def __init__(self, in_channels: int, channels: int, pool: nn.Module | None = None) -> None:
        at_least(1, channels=channels)
        if pool is None:
            pool = nn.MaxPool2d(3, stride=1, padding=1)
        super().__init__(pool, nn.Conv2d(in_channels, channels, 1), nn.ReLU())
        glorot_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Project the block's input.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, channels, height', width')``.
        """
        pool, *rest = self
        x = channels_last(run_pool(pool, x))
        for layer in rest:
            x = layer(x)
        return x

    @classmethod
    def to_size(cls, in_shape: tuple[int, int, int], channels: int, map_size: tuple[int, int]) -> "Projection":
        """Build the projection whose map has the size of the capsules' maps.

        Args:
            in_shape: Channels, height and width of the input.
            channels: Channels of the projection.
            map_size: Height and width of the capsules' maps.

        Returns:
            A projection whose 3x3 pool has the stride that gives this size; where none does, it pools adaptively.

        Example:
            >>> import torch
            >>> Projection.to_size((3, 9, 32), 16, (5, 16))(torch.zeros(2, 3, 9, 32)).shape
            torch.Size([2, 16, 5, 16])
        """
        in_channels, *size = in_shape
        stride = (math.ceil(size[0] / map_size[0]), math.ceil(size[1] / map_size[1]))
        pool: nn.Module = nn.AdaptiveMaxPool2d(map_size)
        if map_size == size_after(stride, (size[0], size[1])):
            pool = nn.MaxPool2d(3, stride=stride, padding=1)
        return cls(in_channels, channels, pool)
