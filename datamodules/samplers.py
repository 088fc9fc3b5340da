"""The order of an epoch: which images make which batch, and which rank takes which share."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.datamodules.options import check_seed


class EpochBatchSampler(DistributedSampler[Tensor], metaclass=CheckedArguments):
    """Yields this rank's share of each global batch, as one index tensor a batch.

    The order depends on ``seed`` and ``epoch`` alone, never on the number of ranks: the same images meet in
    the same step on one device as on eight. Every image is used exactly once per epoch over all ranks. Each
    batch is cut into ``num_replicas`` consecutive shares.

    The last, partial batch is kept if it has more than half of ``batch_size``, and otherwise joined to the
    batch before it: so the rule needs no number of ranks, and hardly ever leaves a rank without images.

    It is a `DistributedSampler` because that is how Lightning recognizes a sampler that already shares out
    its images: any other it wraps in one of its own on several processes (``use_distributed_sampler=True``,
    the default), so that each rank would see a share of a share.

    Args:
        length: How many images there are.
        batch_size: Images in a batch over all ranks.
        shuffle: A new order each epoch; otherwise 0, 1, 2, ...
        seed: Seeds the order together with the epoch.
        num_replicas: Number of ranks. ``batch_size`` has to be a multiple of it.
        rank: Which share to yield, from 0 to ``num_replicas - 1``.
        start_batch: Batches that the first pass skips, to go on in the middle of an epoch. The length is
            unaffected.

    Raises:
        ValueError: If an argument is out of range, ``batch_size`` does not divide by ``num_replicas``, or the
            last batch has fewer images than there are ranks.

    Example:
        >>> list(EpochBatchSampler(9, batch_size=4, shuffle=False))
        [tensor([0, 1, 2, 3]), tensor([4, 5, 6, 7, 8])]
        >>> [share.tolist() for share in EpochBatchSampler(8, 4, shuffle=False, num_replicas=2, rank=1)]
        [[2, 3], [6, 7]]
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        start_batch: int = 0,
    ) -> None:
        at_least(1, "image", length=length, batch_size=batch_size)
        at_least(1, num_replicas=num_replicas)
        at_least(0, start_batch=start_batch)
        if not 0 <= rank < num_replicas:
            raise ValueError(f"Invalid rank {rank}; give a rank from 0 to {num_replicas - 1}, below num_replicas")
        check_seed(seed=seed)
        if batch_size % num_replicas:
            lower = batch_size - batch_size % num_replicas
            raise ValueError(
                f"batch_size={batch_size} is the global batch and does not divide by {num_replicas} ranks; "
                f"give {max(lower, num_replicas)} or {lower + num_replicas}."
            )
        # The parent only measures the dataset, and a range has a length.
        super().__init__(range(length), num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]
        self.length = length
        self.batch_size = batch_size
        self.start_batch = start_batch
        last = length - (len(self) - 1) * batch_size
        if last < num_replicas:
            raise ValueError(
                f"{length} images in batches of batch_size={batch_size} leave {last} for the last batch, too few for "
                f"{num_replicas} ranks; use fewer devices or a batch_size of at least {2 * num_replicas}."
            )

    def __len__(self) -> int:
        whole, tail = divmod(self.length, self.batch_size)
        return max(whole + (2 * tail > self.batch_size), 1)

    def __iter__(self) -> Iterator[Tensor]:
        # A generator: nothing runs before the first batch is asked for, and by then Lightning has set the
        # epoch.
        start = self.start_batch
        self.start_batch = 0
        order = self.epoch_order()
        for batch in range(start, len(self)):
            is_last = batch == len(self) - 1
            stop = self.length if is_last else (batch + 1) * self.batch_size
            images = order[batch * self.batch_size : stop]
            yield images.tensor_split(self.num_replicas)[self.rank]

    def epoch_order(self) -> Tensor:
        """All indices in the order of the current epoch, int64 (length,)."""
        if not self.shuffle:
            return torch.arange(self.length)
        # numpy's legacy generator is frozen: the same seed gives the same order under every version.
        return torch.from_numpy(np.random.RandomState([self.seed, self.epoch]).permutation(self.length))


class OrderedBatchSampler(EpochBatchSampler, SequentialSampler):  # type: ignore[misc]
    """Batches in the images' own order, for evaluation and for ``Trainer(overfit_batches=...)``.

    Under ``overfit_batches`` Lightning replaces every sampler that is not a `SequentialSampler`, and its own
    would yield single images here.

    Args:
        length: How many images there are.
        batch_size: Images in a batch over all ranks.
        num_replicas: Number of ranks. ``batch_size`` has to be a multiple of it.
        rank: Which share to yield, from 0 to ``num_replicas - 1``.

    Example:
        >>> list(OrderedBatchSampler(5, batch_size=3))
        [tensor([0, 1, 2]), tensor([3, 4])]
    """

    def __init__(self, length: int, batch_size: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(length, batch_size, shuffle=False, num_replicas=num_replicas, rank=rank)
