"""Glimpses: small patches of an image around a location."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.arguments import whole_number
from primenet_lightning.nn.layers import at_least_float32


class GlimpseSensor(nn.Module):
    r"""Cuts patches out of images, as the authors' library does (dpnn's ``SpatialGlimpse``).

    A location is (y, x), each from -1 to 1. Of an image of :math:`n` pixels, padded by :math:`p = \lfloor (g-1)/2
    \rfloor` zeros all round, a patch of :math:`g` pixels begins at :math:`\lfloor (l+1)/2\,(n + 2p - g) \rfloor`, in
    pixels of the padded image. Each further depth is a patch twice as large, averaged to the first one's size.

    Args:
        patch: Pixels of a side of the first patch.
        depth: Patches.

    Raises:
        ValueError: If one is below 1.

    Example:
        >>> image = torch.arange(784.0).view(1, 1, 28, 28)
        >>> patch = GlimpseSensor(patch=8)(image, torch.zeros(1, 2)).view(8, 8)
        >>> divmod(int(patch[0, 0]), 28), divmod(int(patch[7, 7]), 28)
        ((10, 10), (17, 17))
    """

    def __init__(self, patch: int = 8, depth: int = 1) -> None:
        super().__init__()
        whole_number(1, patch=patch)
        whole_number(1, depth=depth)
        self.patch = patch
        self.depth = depth

    def forward(self, x: Tensor, location: Tensor) -> Tensor:
        """Look.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            location: ``(batch, 2)``; it gets no gradient.

        Returns:
            ``(batch, depth * channels * patch * patch)``.
        """
        glimpses: list[Tensor] = []
        for level in range(self.depth):
            scale = 2**level
            patch = self._cut(x, location, self.patch * scale)
            glimpses.append(functional.avg_pool2d(patch, scale).flatten(1))
        return torch.cat(glimpses, dim=1)

    def _cut(self, x: Tensor, location: Tensor, size: int) -> Tensor:
        pad = (size - 1) // 2
        padded = functional.pad(x, (pad, pad, pad, pad))
        height, width = padded.shape[2:]
        place = (at_least_float32(location.detach()) + 1) / 2
        rows = _window(place[:, 0], height, size)[:, :, None]
        columns = _window(place[:, 1], width, size)[:, None, :]
        images = torch.arange(len(x), device=x.device)[:, None, None]
        return padded[images, :, rows, columns].permute(0, 3, 1, 2)


def _window(place: Tensor, side: int, size: int) -> Tensor:
    """Rows, or columns, of a window, ``(batch, size)``; ``place`` is from 0, at the one side, to 1, at the other."""
    room = side - size
    start = (place * room).floor().long().clamp(0, room)
    return start[:, None] + torch.arange(size, device=place.device)
