"""The loader that hands on whole batches, and picks an interrupted epoch up again."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.datamodules.ahead import copied_ahead
from primenet_lightning.datamodules.in_memory import ImageTensors
from primenet_lightning.datamodules.samplers import EpochBatchSampler


class BatchLoader(DataLoader[tuple[Tensor, Tensor]], metaclass=CheckedArguments):
    """A `DataLoader` whose sampler yields whole batches.

    It has no workers: to hand a batch from process to process takes longer than to gather it. Lightning keeps
    its state in the checkpoint, so a run resumes with the batch after the last one it trained on.

    Args:
        dataset: Gathers a batch at once.
        sampler: Yields the index tensors of the batches.
        batches_done: Says, when a checkpoint is written, how many batches of the epoch have been trained on.
        shuffle: Given by Lightning when it makes this loader again for ``Trainer.predict``; the sampler shuffles.
        batch_sampler: Likewise; the sampler yields batches.
        pin_memory: Whether batches lie in page-locked memory, from where a GPU takes them without anybody waiting.
        device: A GPU of CUDA that batches are copied to ahead of time, see `copied_ahead`; None leaves them on the CPU.

    Example:
        >>> dataset = ImageTensors(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5))
        >>> loader = BatchLoader(dataset, EpochBatchSampler(5, batch_size=2, shuffle=False))
        >>> loader.load_state_dict(loader.state_dict() | {"start_batch": 1})
        >>> [labels.tolist() for _, labels in loader]
        [[2, 3, 4]]
    """

    def __init__(
        self,
        dataset: ImageTensors,
        sampler: EpochBatchSampler,
        batches_done: Callable[[], int] | None = None,
        *,
        shuffle: Literal[False] = False,
        batch_sampler: None = None,
        pin_memory: bool = False,
        device: torch.device | None = None,
    ) -> None:
        # batch_size=None: each item of the sampler is a batch already, and there is nothing left to collate
        # generator: without one of its own, each pass would draw from the global random numbers, and a run that was
        # resumed, which begins a pass more, would go on with others
        super().__init__(
            dataset,
            sampler=sampler,
            batch_size=None,
            shuffle=shuffle,
            batch_sampler=batch_sampler,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(0),
        )
        self.batches_done = batches_done
        self.device = device

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return batches if self.device is None else copied_ahead(batches, self.device)

    def state_dict(self) -> dict[str, int]:
        """Where in the epoch a resumed run starts, and of which order of batches."""
        sampler: Any = self.sampler
        order = {"length": sampler.length, "seed": sampler.seed, "batch_size": sampler.batch_size}
        start = 0 if self.batches_done is None else self.batches_done()
        return {"start_batch": start, **order}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next pass start there.

        Args:
            state_dict: From `state_dict`.

        Raises:
            ValueError: If the images, their order, or, in the middle of an epoch, the batches are others now.
        """
        sampler: Any = self.sampler
        start = state_dict["start_batch"]
        names = {"length": "training images", "seed": "seed"}
        if start:
            names["batch_size"] = "batch_size"
        for name, in_words in names.items():
            saved = state_dict.get(name)
            present = getattr(sampler, name)
            if saved is not None and saved != present:
                raise ValueError(
                    f"the run that is resumed had {in_words}={saved}, but now it is {present}: images would be left "
                    "out or seen twice, or move between training and validation; resume with the data options it had"
                )
        sampler.start_batch = start


def _as_is(batch: Any) -> Any:
    return batch
