"""What a part hands on: feature maps, channels last or not, tokens, or vectors; and the way to maps from each."""

import math
from typing import Literal, NamedTuple

from torch import Tensor, nn

Layout = Literal["maps", "maps_last", "tokens", "vectors"]
"""Maps are ``(batch, channels, height, width)``, or ``(batch, height, width, channels)`` where channels come last;
tokens ``(batch, tokens, channels)``; vectors ``(batch, channels)``."""


class Features(NamedTuple):
    """What a part hands on, or takes.

    Attributes:
        shape: For one image, without the batch.
        layout: What its dimensions mean.
    """

    shape: tuple[int, ...]
    layout: Layout

    @classmethod
    def of(cls, shape: tuple[int, ...], image_shape: tuple[int, ...]) -> "Features":
        """Tell what the dimensions of a tensor mean.

        Of three, two are as the image's height to its width; where the first two are so and the last two are not,
        channels come last.

        Args:
            shape: For one image, without the batch.
            image_shape: Channels, height and width of the images.

        Returns:
            The shape and the layout.

        Raises:
            ValueError: If there are more than three dimensions.

        Example:
            >>> Features.of((7, 7, 768), image_shape=(3, 224, 224)).layout
            'maps_last'
            >>> Features.of((64, 7, 14), image_shape=(3, 112, 224)).layout
            'maps'
        """
        if len(shape) == 1:
            return cls(shape, "vectors")
        if len(shape) == 2:
            return cls(shape, "tokens")
        if len(shape) > 3:
            raise ValueError(
                f"a part hands on features of shape {shape} an image, which no local classifier can take; cut elsewhere"
            )
        wanted = 0.0
        if len(image_shape) == 3:
            wanted = math.log(image_shape[1] / image_shape[2])
        as_first = abs(math.log(shape[1] / shape[2]) - wanted)
        as_last = abs(math.log(shape[0] / shape[1]) - wanted)
        return cls(shape, "maps" if as_first <= as_last else "maps_last")

    @property
    def channels(self) -> int:
        """Channels of maps, of tokens, or of vectors."""
        return self.shape[0] if self.layout in ("maps", "vectors") else self.shape[-1]

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width as maps; tokens are a map of one column, vectors one pixel."""
        if self.layout == "maps":
            return self.shape[1], self.shape[2]
        if self.layout == "maps_last":
            return self.shape[0], self.shape[1]
        return (self.shape[0], 1) if self.layout == "tokens" else (1, 1)

    def with_channels(self, channels: int) -> "Features":
        """Make features of the same kind and size with other channels.

        Args:
            channels: How many.

        Returns:
            The new ones.

        Example:
            >>> Features((7, 7, 768), "maps_last").with_channels(96)
            Features(shape=(7, 7, 96), layout='maps_last')
        """
        if self.layout in ("maps", "vectors"):
            return Features((channels, *self.shape[1:]), self.layout)
        return Features((*self.shape[:-1], channels), self.layout)


class ToMaps(nn.Module):
    """Lays features out as maps, tokens in one column.

    Args:
        layout: Of the features.

    Example:
        >>> import torch
        >>> ToMaps("tokens")(torch.zeros(2, 49, 8)).shape, ToMaps("maps_last")(torch.zeros(2, 7, 7, 8)).shape
        (torch.Size([2, 8, 49, 1]), torch.Size([2, 8, 7, 7]))
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange the dimensions.

        Args:
            x: Features, ``(batch, ...)``.

        Returns:
            ``(batch, channels, height, width)``.
        """
        if self.layout == "maps_last":
            return x.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            return x.transpose(1, 2).unsqueeze(3)
        if self.layout == "vectors":
            return x[:, :, None, None]
        return x

    def extra_repr(self) -> str:
        """The layout, for ``print``."""
        return self.layout


class FromMaps(nn.Module):
    """Lays maps out as features of another kind: the inverse of `ToMaps`.

    Args:
        layout: Of the features.

    Example:
        >>> import torch
        >>> FromMaps("tokens")(torch.zeros(2, 8, 49, 1)).shape
        torch.Size([2, 49, 8])
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange the dimensions.

        Args:
            x: Maps, ``(batch, channels, height, width)``.

        Returns:
            Features, ``(batch, ...)``.
        """
        if self.layout == "maps_last":
            return x.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return x.flatten(2).transpose(1, 2)
        if self.layout == "vectors":
            return x.flatten(1)
        return x

    def extra_repr(self) -> str:
        """The layout, for ``print``."""
        return self.layout


def normalised_maps(features: Features) -> nn.Sequential:
    """Build what lays features out as maps; those of transformers, which are not normalised, by layer norm first.

    Args:
        features: What it will be given.

    Returns:
        A module from ``(batch, ...)`` to ``(batch, channels, height, width)``.

    Example:
        >>> [type(layer).__name__ for layer in normalised_maps(Features((49, 8), "tokens"))]
        ['LayerNorm', 'ToMaps']
    """
    if features.layout in ("tokens", "maps_last"):
        return nn.Sequential(nn.LayerNorm(features.channels), ToMaps(features.layout))
    return nn.Sequential(ToMaps(features.layout))
