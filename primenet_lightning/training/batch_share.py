"""A rank's share of a global batch: how much it weighs, and means over all shares."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup


class BatchShare:
    """This rank's share of a global batch, and the averages over all shares.

    The number of images is summed over ranks at once, in the background; nobody waits for it before the first losses
    are averaged. Flags ride along at no cost, which is how all ranks learn in the same step that one of them was
    asked to stop.

    Args:
        count: Images in this rank's share.
        device: Of the losses.
        flags: What this rank has to say to all others.
        group: The processes that share the batch; None for all.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> share = BatchShare(20, torch.device("cpu"), flags=[True, False])
        >>> share.weight, share.mean(torch.tensor([0.5, 0.25])).tolist(), share.any([False, False])
        (1.0, [0.5, 0.25], [True, False])
        >>> dist.destroy_process_group()
    """

    def __init__(
        self, count: int, device: torch.device, flags: Sequence[bool] = (), group: ProcessGroup | None = None
    ) -> None:
        self.count = count
        self.group = group
        self._sums = torch.tensor([count, *flags], dtype=torch.float32, device=device)
        self._work: Any = dist.all_reduce(self._sums, async_op=True, group=group)
        self._host: list[float] = []

    def _totals(self) -> list[float]:
        if self._work is not None:
            self._work.wait()
            self._work, self._host = None, self._sums.tolist()
        return self._host

    @property
    def weight(self) -> float:
        """Images in this share over those of the global batch."""
        return self.count / self._totals()[0]

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Tell which flags at least one rank had raised when the batch was shared out.

        Args:
            flags: Not looked at: those of this rank have been sent already.

        Returns:
            One a flag, the same on every rank.
        """
        return [total > 0 for total in self._totals()[1:]]

    def mean(self, values: Tensor) -> Tensor:
        """Average means over all shares; a NaN on one rank is a NaN on all.

        Args:
            values: Means over this rank's share, ``(values,)``.

        Returns:
            Means over the global batch, ``(values,)``, bit for bit the same on every rank.
        """
        weighted = values * self.weight
        dist.all_reduce(weighted, group=self.group)
        return weighted

    def draw(self, count: int, numbers: int, device: torch.device) -> Tensor:
        """Draw random numbers for the images here: those of the global batch, of which each rank takes its own.

        They are those of one process where the ranks' generators agree and the batch is cut into consecutive shares,
        as by `primenet_lightning.datamodules.samplers`; otherwise each rank has numbers of its own.

        Args:
            count: Images here.
            numbers: How many numbers an image.
            device: Whose generator they come from.

        Returns:
            Uniform in [0, 1), float32, ``(count, numbers)``.
        """
        images = round(self._totals()[0])
        size, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        of_all = torch.rand(images, numbers, dtype=torch.float32, device=device)
        own = of_all.tensor_split(size)[rank]
        if len(own) == count:
            return own
        apart = torch.rand(size * images, numbers, dtype=torch.float32, device=device)  # or ranks would draw the same
        return apart[rank * images : rank * images + count]
