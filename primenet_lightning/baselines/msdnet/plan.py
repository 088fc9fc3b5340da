"""Where MSDNet's layers, scales and exits are: numbers alone, no network."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal, get_args

from primenet_lightning.arguments import whole_number

Spacing = Literal["even", "lin_grow"]
"""How many layers lie between two exits: always as many, or more and more."""

LARGEST_FACTOR = 4
"""No scale is wider than so many times the finest."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layers, scales and exits of an MSDNet, and in which order its maps are computed.

    Layers are counted from 1, as in the paper; what stands before them is layer 0. Scales are counted from 0, the
    finest; each one has maps half as high and wide as those of the scale before. Scale s has ``factor(s)`` times the
    channels of the finest.

    Args:
        exits: How many there are.
        base: Layers before the first exit.
        step: Layers between two exits if ``spacing`` is ``"even"``; the i-th exit comes ``step (i - 1) + 1`` layers
            after the one before if it is ``"lin_grow"``.
        spacing: See ``step``.
        scales: How many there are at first. On the way through the layers all but the coarsest are dropped, one after
            each ``ceil(layers / scales)`` layers.
        channels: Of the finest scale's first maps.
        growth: Channels that a layer adds to the finest scale.
        exit_channels: Filters of the exits' convolutions.
        lazy: Maps that no exit has needed yet are computed when one does. False computes layer by layer.

    Raises:
        ValueError: If a number is too small, or there is no such spacing.

    Example:
        >>> plan = Plan(exits=5, base=1, step=1, spacing="lin_grow")
        >>> plan.ends, [3 - plan.finest(layer) for layer in range(1, plan.layers + 1)]
        ([1, 3, 6, 10, 15], [3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1])
        >>> plan.width(6), plan.width(7)
        (46, 26)
    """

    exits: int = 5
    base: int = 1
    step: int = 1
    spacing: Spacing = "lin_grow"
    scales: int = 3
    channels: int = 16
    growth: int = 6
    exit_channels: int = 128
    lazy: bool = True

    def __post_init__(self) -> None:
        for name in ("exits", "base", "step", "scales", "channels", "growth", "exit_channels"):
            object.__setattr__(self, name, whole_number(1, **{name: getattr(self, name)}))
        if self.spacing not in get_args(Spacing):
            raise ValueError(f"spacing={self.spacing!r} is unknown; use one of {get_args(Spacing)}")

    @property
    def ends(self) -> list[int]:
        """The layer that each exit follows."""
        between = [self.base]
        for index in range(1, self.exits):
            between.append(self.step if self.spacing == "even" else self.step * index + 1)
        return list(itertools.accumulate(between))

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return self.ends[-1]

    @property
    def interval(self) -> int:
        """After so many layers each a scale is dropped."""
        return -(-self.layers // self.scales)

    @property
    def coarsest(self) -> int:
        """The scale that exits are on."""
        return self.scales - 1

    def finest(self, layer: int) -> int:
        """Tell the finest scale that a layer computes.

        Args:
            layer: From 0.

        Returns:
            The scale.
        """
        return max(layer - 1, 0) // self.interval

    def drops(self, layer: int) -> bool:
        """Tell whether a layer is the first without a scale, after which all maps are halved in channels.

        Args:
            layer: From 1.

        Returns:
            Whether it is.
        """
        return self.finest(layer) > self.finest(layer - 1)

    def width(self, layer: int) -> int:
        """Count the channels that the finest scale has, or would have, when a layer begins.

        Args:
            layer: From 1; one more than there are gives the width at the end.

        Returns:
            Channels; of scale s ``factor(s)`` times as many.
        """
        width = self.channels
        for before in range(1, layer):
            width += self.growth
            if self.drops(before):
                width //= 2
        return width

    @staticmethod
    def factor(scale: int) -> int:
        """Tell how much wider a scale is than the finest.

        Args:
            scale: From 0.

        Returns:
            1, 2, 4, 4, ...; also the factor of the bottlenecks of what begins at this scale.
        """
        return int(min(2**scale, LARGEST_FACTOR))

    def is_read(self, layer: int, scale: int) -> bool:
        """Tell whether an exit depends on a map, which else is not there.

        Args:
            layer: From 0.
            scale: From 0.

        Returns:
            Whether one does.
        """
        return scale >= self.finest(layer) and scale >= self.coarsest - (self.layers - layer)

    def visits(self, exit_index: int) -> list[tuple[int, int]]:
        """List the maps that are computed between the exit before and this one.

        Scale s of a layer is computed from scales s - 1 and s of the layer before. So an exit after layer L needs of
        layer l the scales from ``coarsest - (L - l)`` on; lazily nothing else is computed.

        Args:
            exit_index: From 0.

        Returns:
            Layer and scale of each map, in an order in which each can be computed from the latest of its scale and of
            the scale before.

        Example:
            >>> Plan(exits=3).visits(0)
            [(1, 2)]
            >>> Plan(exits=3, lazy=False).visits(0)
            [(1, 2), (1, 1), (1, 0)]
            >>> Plan(exits=3).visits(1)
            [(1, 1), (2, 2), (1, 0), (2, 1), (3, 2)]
        """
        start = self.ends[exit_index - 1] if exit_index else 0
        order: list[tuple[int, int]] = []
        for last in range(start + 1, self.ends[exit_index] + 1):
            maps = self._lazily(last) if self.lazy else self._in_full(last)
            for layer, scale in maps:
                if layer >= 1 and self.is_read(layer, scale):
                    order.append((layer, scale))
        return order

    def _lazily(self, last: int) -> Iterator[tuple[int, int]]:
        """What the coarsest scale of a layer needs, beyond what that of the layer before needed: finer ones lag."""
        for scale in range(self.scales):
            yield last - (self.coarsest - scale), scale

    def _in_full(self, last: int) -> Iterator[tuple[int, int]]:
        """All scales of a layer; the coarser first, since they read the finer of the layer before."""
        for scale in reversed(range(self.scales)):
            yield last, scale
