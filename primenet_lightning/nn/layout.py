"""Memory layout: channels last, in which poolings and batch norms run several times as fast on a CPU."""

import torch
from torch import Tensor, nn


def channels_last(x: Tensor) -> Tensor:
    """Lay a batch of maps out channels last, unless it is so already; the values stay what they are.

    One channel is the same in memory either way, and torch then takes it for channels first. Here its strides say
    channels last, so that what a convolution makes of it is laid out so too.

    Args:
        x: ``(batch, channels, height, width)``.

    Returns:
        The same shape and values.

    Example:
        >>> import torch
        >>> channels_last(torch.zeros(2, 3, 8, 8)).stride()
        (192, 1, 24, 3)
        >>> channels_last(torch.zeros(2, 1, 8, 8)).stride()
        (64, 1, 8, 1)
    """
    if x.shape[1] == 1:
        return x.squeeze(1).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


class FlattenMaps(nn.Flatten):
    """Flatten, whose gradient comes back laid out as the maps that went in.

    The gradient of a flattened map is laid out channels first, and so are those of the poolings before it, if nobody
    intervenes: torch then brings maps of full size from one layout to the other, twice. After a pooling the maps are
    small, and brought over in no time. The values are the same to the last bit.

    Example:
        >>> pooled = torch.nn.functional.avg_pool2d(channels_last(torch.zeros(2, 3, 8, 8, requires_grad=True)), 2)
        >>> flat = FlattenMaps()(pooled)
        >>> handle = pooled.register_hook(lambda gradient: print(gradient.stride()))
        >>> (flat * flat).sum().backward()
        (48, 1, 12, 3)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Flatten a batch of maps.

        Args:
            input: ``(batch, channels, height, width)``.

        Returns:
            ``(batch, channels * height * width)``.
        """
        # a compiler arranges memory by itself; of parameters, and of what is contiguous, nothing is to be done
        wants_layout = input.requires_grad and not input.is_leaf and not input.is_contiguous()
        if wants_layout and not torch.compiler.is_compiling():
            input.register_hook(_as_maps)  # type: ignore[no-untyped-call]
        return super().forward(input)


def _as_maps(gradient: Tensor) -> Tensor:
    return channels_last(gradient)
