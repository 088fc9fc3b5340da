"""Replicas of a pipeline: each row of stages has a share of the batch, and requests go down the row."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import Share
from primenet_lightning.pipeline.line import Line
from primenet_lightning.pipeline.sharing import PipelineShare
from primenet_lightning.training.exchange import Exchange


class PipelineExchange(Exchange):
    """What passes between processes that have the same stages, and which flags go down the row.

    Args:
        replicas: Of these stages.
        line: The row of this process.
        hear: Given this process's flags, those of all, as far as is known.
    """

    def __init__(self, replicas: Exchange, line: Line, hear: Callable[[Sequence[bool]], list[bool]] = list) -> None:
        self.replicas = replicas
        self.line = line
        self.hear = hear

    def share(self, count: int, device: torch.device, flags: Sequence[bool] = ()) -> PipelineShare:
        """Share out a training batch; see `Exchange.share`."""
        flags = self.hear(flags)
        return PipelineShare(self.replicas.share(count, device, flags), flags, self.line.is_first)

    @property
    def rank(self) -> int:
        """Of this process among the replicas."""
        return self.replicas.rank

    @property
    def size(self) -> int:
        """How many replicas there are."""
        return self.replicas.size

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
