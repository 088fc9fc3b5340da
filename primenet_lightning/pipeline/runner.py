"""A batch through the stages of one process of a pipeline."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from primenet_lightning.pipeline.exchange import PipelineShare
from primenet_lightning.pipeline.section import PipelineSection
from primenet_lightning.training.runner import StageRunner


@dataclass
class TrainingNote:
    """What goes on with a map in training.

    Attributes:
        values: Losses by learner, of all stages so far.
        route: Whose map went on, one index a stage that chooses.
        went_on: Losses of the learners whose maps went on, one a stage.
        flags: What had been asked for when the first stages began with the batch.
        labels: Of the batch, added up; see `checksum`.
    """

    values: dict[str, float]
    route: list[int]
    went_on: list[float]
    flags: list[bool]
    labels: int


class PipelineRunner(StageRunner):
    """Runs batches through the stages of one process, each as soon as the process before has handed it on.

    A stage sees the batches in the same order as in one process, and each map was made before its sender's update: the
    numbers are those of one process. What a batch came to is complete on the last process.

    Args:
        section: The stages that are run here.
        optimizer: Of the learners here; None computes gradients and applies none.
        **options: Further arguments of `StageRunner`.
    """

    section: PipelineSection

    def __init__(self, section: PipelineSection, optimizer: Optimizer | None = None, **options: Any) -> None:
        super().__init__(section.network, optimizer, section=section, **options)

    def enter(self, x: Tensor) -> Tensor:
        """Take the map of this batch from the process before; the first process has the images.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            The input of the first stage here, ``(batch, *in_shape)``.

        Raises:
            ValueError: If that process had other labels.
            ProcessLost: If that process has ended.
        """
        line = self.section.line
        if line.is_first:
            return x
        self.network.look_at(x)
        note, x = line.receive(x.device)
        passage = self.passage
        passage.values, passage.route, passage.went_on = note.values, note.route, note.went_on
        if isinstance(passage.share, PipelineShare):
            passage.share.raised = note.flags
        if note.labels != checksum(passage.target):
            raise ValueError(
                "the processes of the pipeline have other labels in the same batch, so that their data come in "
                "another order; give the loader's sampler a seed, as ImageDataModule does"
            )
        self.section.follow(note.values)
        return x

    def leave(self, x: Tensor) -> None:
        """Hand the map on, with all that is known of the batch.

        Args:
            x: Of the last stage here, ``(batch, *out_shape)``.
        """
        passage, line = self.passage, self.section.line
        if line.is_last:
            return
        flags: list[bool] = []
        if isinstance(passage.share, PipelineShare):
            flags = passage.share.any(())
        note = TrainingNote(passage.values, passage.route, passage.went_on, flags, checksum(passage.target))
        line.send(note, x)


def checksum(target: Tensor) -> int:
    """Add labels up so that another order gives another sum.

    Args:
        target: Class indices, ``(batch,)``.

    Returns:
        The sum.

    Example:
        >>> checksum(torch.tensor([1, 2])), checksum(torch.tensor([2, 1]))
        (5, 4)
    """
    return int((target * torch.arange(1, len(target) + 1, device=target.device)).sum())
