"""Replicas of a pipeline: each row of stages has a share of the batch, and requests go down the row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import Share
from primenet_lightning.pipeline.section import PipelineSection
from primenet_lightning.training.exchange import Exchange


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


class PipelineExchange(Exchange):
    """What passes between processes that have the same stages, and which flags go down the row.

    Args:
        replicas: Of these stages.
        section: Of this process.
        hear: Given this process's flags, those of all, as far as is known.
    """

    def __init__(
        self, replicas: Exchange, section: PipelineSection, hear: Callable[[Sequence[bool]], list[bool]] = list
    ) -> None:
        self.replicas = replicas
        self.section = section
        self.hear = hear

    def share(self, count: int, device: torch.device, flags: Sequence[bool] = ()) -> PipelineShare:
        """Share out a training batch; see `Exchange.share`."""
        flags = self.hear(flags)
        return PipelineShare(self.replicas.share(count, device, flags), flags, self.section.line.is_first)

    def start(self, network: StagedNetwork, learners: Iterable[str], share: Share, last: bool) -> None:
        """Send the gradients of some learners on their way; see `Exchange.start`."""
        self.replicas.start(network, learners, share, last)

    def finish(self) -> None:
        """Wait for everything that was started; see `Exchange.finish`."""
        self.replicas.finish()

    def settle(self, network: StagedNetwork) -> None:
        """Average what has drifted apart among replicas; see `Exchange.settle`."""
        self.replicas.settle(network)

    def gather(self, value: Any) -> list[Any]:
        """Collect one small object of each replica; see `Exchange.gather`."""
        return self.replicas.gather(value)

    def sum(self, values: Tensor) -> Tensor:
        """Add up over replicas; see `Exchange.sum`."""
        return self.replicas.sum(values)
