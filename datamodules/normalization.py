"""From uint8 pixels to the network's float32 input, a batch at a time on the batch's device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from primenet_lightning.argument_types import CheckedArguments


class Normalize(metaclass=CheckedArguments):
    """Computes ``(pixel / 255 - mean) / std`` per channel, as torchvision's ToTensor and Normalize do.

    Args:
        mean: Mean per channel, with pixels measured from 0 to 1.
        std: Standard deviation per channel, with pixels measured from 0 to 1.

    Raises:
        ValueError: If they are not one finite number a channel, or a deviation is not above 0.

    Example:
        >>> normalize = Normalize(mean=(0.5,), std=(0.5,))
        >>> normalize(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
        tensor([[[[-1.,  1.]]]])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = tuple(mean)
        self.std = tuple(std)
        _refuse_statistics(self.mean, self.std)
        # in units of a pixel, (1, channels, 1, 1); one channel's if they are alike, which is twice as fast
        channels = 1 if len(set(zip(self.mean, self.std, strict=True))) == 1 else None
        self._offset = (255 * np.array(self.mean[:channels])).astype(np.float32).reshape(1, -1, 1, 1)
        self._scale = (1 / (255 * np.array(self.std[:channels]))).astype(np.float32).reshape(1, -1, 1, 1)
        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize a batch.

        Args:
            images: Pixels from 0 to 255, uint8 (batch, channels, height, width); left as they are.

        Returns:
            A new tensor, float32, of the same shape on the same device.
        """
        if images.device.type == "cpu" and images.dtype == torch.uint8:
            # numpy stays in this thread; torch would wait for its other threads, long on a busy machine
            pixels = images.numpy().astype(np.float32)
            pixels -= self._offset
            pixels *= self._scale
            return torch.from_numpy(pixels)
        offset, scale = self._on(images.device)
        return images.to(torch.float32, copy=True).sub_(offset).mul_(scale)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The offset and the scale on ``device``, copied there once."""
        if device not in self._constants:
            offset, scale = torch.from_numpy(self._offset), torch.from_numpy(self._scale)
            self._constants[device] = offset.to(device), scale.to(device)
        return self._constants[device]


def _refuse_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if not mean or len(mean) != len(std):
        raise ValueError(f"mean={mean} and std={std} do not fit each other; give one number a channel for each")
    if not np.isfinite([*mean, *std]).all():
        raise ValueError(f"mean={mean} and std={std} must be finite numbers")
    if min(std) <= 0:
        raise ValueError(f"std={std} must be above 0, since pixels are divided by it")


def channel_statistics(
    images: Tensor, indices: Tensor, chunk: int = 4096
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels of some images, per channel.

    Counted exactly: a histogram of the 256 values, a few thousand images at a time, so memory stays flat.

    Args:
        images: uint8 (images, channels, height, width).
        indices: Which images, int64 (chosen,).
        chunk: How many images to count at a time.

    Returns:
        Mean and population standard deviation per channel, with pixels measured from 0 to 1.

    Example:
        >>> images = torch.tensor([0, 255, 7], dtype=torch.uint8).view(3, 1, 1, 1)
        >>> channel_statistics(images, torch.tensor([0, 1]))
        ((0.5,), (0.5,))
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in torch.split(indices, chunk):
        for channel, pixels in enumerate(images.index_select(0, part).unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    shares = counts / counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(dim=1)
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())


def standard_statistics(images: Tensor, indices: Tensor, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels that can be standardized.

    Args:
        images: uint8 (images, channels, height, width).
        indices: Which images, int64 (chosen,).
        name: The data set.

    Returns:
        As `channel_statistics`.

    Raises:
        ValueError: If all pixels of a channel are equal.
    """
    mean, std = channel_statistics(images, indices)
    if 0 in std:
        raise ValueError(
            f"Channel {std.index(0)} of {name} is constant and cannot be standardized; give normalization='symmetric'."
        )
    return mean, std
