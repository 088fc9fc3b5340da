"""Small blocks and networks that hand on what a router makes of their maps, and made-up maps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from primenet_lightning import Architecture, PrimeBlock, PrimeNetwork, Router

MAPS = [torch.full((2, 1, 1, 1), float(value)) for value in (1, 2, 6)]
"""Of three capsules and two images."""

X = torch.zeros(2, 3, 4, 4)
"""What they were made of."""


def routed_block(router: Router, in_channels: int = 2) -> PrimeBlock:
    """A block of three capsules, whose maps have four channels, and a projection of three."""
    torch.manual_seed(0)
    return PrimeBlock.multiscale(
        in_channels, (8, 8), 3, reduce_channels=2, channels=4, projection_channels=3, router=router
    )


def routed_batch() -> tuple[Tensor, Tensor]:
    """Twelve images, and their labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 2, 8, 8, generator=generator), torch.arange(12) % 3


def routed_network(
    router: str, options: Mapping[str, Any] | None = None, kind: type[PrimeNetwork] = PrimeNetwork
) -> PrimeNetwork:
    """Two such blocks and a head."""
    torch.manual_seed(0)
    widths = Architecture(2, 4, 3, 5, "pooled", 1, router=router, router_options=options)
    return kind.build(2, (8, 8), 3, widths, depth=2)
