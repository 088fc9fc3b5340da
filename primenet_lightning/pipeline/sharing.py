"""A process's share of a batch, in a pipeline whose rows of stages may have replicas."""

from collections.abc import Sequence

import torch
from torch import Tensor

from primenet_lightning.nn.numbers import Share


class PipelineShare:
    """A process's share of a batch, whose flags are those that were raised when the first stages began with it.

    So all processes hear of a request with the same batch, though they run it at different times.

    Args:
        share: Among the replicas.
        flags: What this process has to say.
        is_first: Whether it has the first stages.
    """

    def __init__(self, share: Share, flags: Sequence[bool], is_first: bool) -> None:
        self.share = share
        self.raised: list[bool] | None = share.any(flags) if is_first else None

    @property
    def weight(self) -> float:
        """Images here over images everywhere."""
        return self.share.weight

    def mean(self, values: Tensor) -> Tensor:
        """Average over the replicas.

        Args:
            values: Means over the images here, ``(values,)``.

        Returns:
            Means over the global batch, ``(values,)``.
        """
        return self.share.mean(values)

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Tell which flags were raised when the first stages began with this batch.

        Args:
            flags: Not looked at.

        Returns:
            One a flag, the same on every process.
        """
        assert self.raised is not None
        return self.raised

    def draw(self, count: int, numbers: int, device: torch.device) -> Tensor:
        """Draw random numbers for the images here, the same however many replicas share the batch.

        Args:
            count: Images here.
            numbers: How many numbers an image.
            device: Whose generator, the default one, they come from.

        Returns:
            Uniform in [0, 1), float32, ``(count, numbers)``.
        """
        return self.share.draw(count, numbers, device)
