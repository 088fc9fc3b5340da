"""What one process of a pipeline has of the network, and what it hears of the rest."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from primenet_lightning.nn.names import learners_of
from primenet_lightning.nn.network import Evaluation, StagedNetwork, judge, total_of
from primenet_lightning.pipeline.line import Line
from primenet_lightning.pipeline.sharing import PipelineShare
from primenet_lightning.training.section import Passage, Section

Value = TypeVar("Value")


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


class PipelineSection(Section):
    """Stages in a row that one process of a pipeline runs, each batch as soon as the process before has handed it on.

    A stage sees the batches in the same order as in one process, and each map was made before its sender's update: the
    numbers are those of one process. What a batch came to is complete on the last process.

    Args:
        network: The whole network.
        begins: Of each process of the row, the place of its first stage.
        line: The row.

    Attributes:
        line: The row.

    Raises:
        ValueError: If a learner's name does not begin with that of its stage, by which its process is found.
    """

    def __init__(self, network: StagedNetwork, begins: list[int], line: Line) -> None:
        end = None if line.is_last else begins[line.position + 1]
        super().__init__(network, begins[line.position], end)
        self.begins = begins
        self.line = line
        _refuse_names(network)

    @property
    def is_whole(self) -> bool:
        """A pipeline of one process has all stages."""
        return len(self.line.ranks) == 1

    @property
    def has_head(self) -> bool:
        """Whether the last stage is run here."""
        return self.line.is_last

    # -- what it runs --------------------------------------------------------------------------------------------------

    def enter(self, x: Tensor, passage: Passage) -> Tensor:
        """Take the map of this batch from the process before; the first process has the images.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            passage: Of the batch.

        Returns:
            The input of the first stage here, ``(batch, *in_shape)``.

        Raises:
            ValueError: If that process had other labels.
            ProcessLost: If that process has ended.
        """
        if self.line.is_first:
            return x
        self.network.look_at(x)
        note, x = self.line.receive(x.device)
        passage.values, passage.route, passage.went_on = note.values, note.route, note.went_on
        if isinstance(passage.share, PipelineShare):
            passage.share.raised = note.flags
        if note.labels != checksum(passage.target):
            raise ValueError(
                "the processes of the pipeline have other labels in the same batch, so that their data come in "
                "another order; give the loader's sampler a seed, as ImageDataModule does"
            )
        self._follow(note.values.keys())
        return x

    def leave(self, x: Tensor, passage: Passage) -> None:
        """Hand the map on, with all that is known of the batch.

        Args:
            x: Of the last stage here, ``(batch, *out_shape)``.
            passage: Of the batch.
        """
        if self.line.is_last:
            return
        flags: list[bool] = []
        if isinstance(passage.share, PipelineShare):
            flags = passage.share.any(())
        note = TrainingNote(passage.values, passage.route, passage.went_on, flags, checksum(passage.target))
        self.line.send(note, x)

    def _follow(self, names: Collection[str]) -> None:
        """Follow at once what the processes before have pruned, given the names of their learners as they are now."""
        before: set[str] = set()
        for stage in self.network.stages[: self.begin]:
            before.update(learners_of(stage.name, self.network.loss_names))
        if len(before) != len(names):
            self.network.follow_pruning({*names, *self.network.loss_names} - (before - set(names)))

    @torch.no_grad()
    def evaluate(self, x: Tensor, target: Tensor) -> Evaluation:
        """Give the verdict of the learners here; the last process knows the total. See `Section.evaluate`."""
        went_on: list[float | None] = []
        route: list[int] = []
        if not self.line.is_first:
            self.network.look_at(x)
            (went_on, route), x = self.line.receive(x.device)
        judged = judge(self.stages, self._choices(), x, target)
        self.network.look_at(None)
        route += judged.route
        if not self.line.is_last:
            went_on += [None if loss is None else float(loss) for loss in judged.went_on]
            self.line.send((went_on, route), judged.output)
            return Evaluation(judged.losses, judged.logits, tuple(route))
        before = [None if loss is None else x.new_tensor(loss, dtype=_type_of(judged.went_on)) for loss in went_on]
        return Evaluation(judged.losses, judged.logits, tuple(route), total_of([*before, *judged.went_on]))

    def predict(self, x: Tensor) -> Tensor:
        """Classify images without labels.

        Args:
            x: Images, ``(batch, *in_shape)``.

        Returns:
            Logits, ``(batch, classes)``, on the last process; on the others what they handed on, of no image:
            ``(0, ...)``.
        """
        if not self.line.is_first:
            _, x = self.line.receive(x.device)
        for stage, choice in zip(self.stages, self._choices(), strict=True):
            x = stage.through(x, choice)
        if not self.line.is_last:
            self.line.send(None, x)
            return x.new_zeros(0, 1)
        return x

    def _choices(self) -> tuple[int, ...]:
        return self.network.choices()[self.begin : self.end]

    # -- what it hears -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take over what other processes remember beside tensors, such as routes, and follow their pruning."""
        told = self.line.gather((self.loss_names, self._extra_states()))
        remaining = {name for names, _ in told for name in names}
        if remaining != set(self.network.loss_names):
            self.network.follow_pruning(remaining)
        modules = dict(self.network.named_modules())
        for position, (_, states) in enumerate(told):
            if position != self.line.position:
                for name, state in states.items():
                    modules[name].set_extra_state(state)

    def _extra_states(self) -> dict[str, Any]:
        """States that are no tensors, by module: those of the stages here, and with the last those of the network."""
        return {name: module.get_extra_state() for name, module in own_modules(self) if _has_extra_state(module)}

    def collect(self, results: Mapping[str, Value]) -> dict[str, Value]:
        """Put together what each process has found out; see `Section.collect`."""
        together: dict[str, Value] = {}
        for of_section in self.line.gather(dict(results)):
            together |= of_section
        return together

    def of_last(self, value: Any) -> Any:
        """Learn what the last process has; see `Section.of_last`."""
        return self.line.of_last(value)


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


def own_modules(section: PipelineSection) -> Iterator[tuple[str, nn.Module]]:
    """Go through the modules that a process answers for: its stages', and the last one for what is no stage's.

    Args:
        section: Of the process.

    Yields:
        Names in the network, and modules.
    """
    of_others: set[int] = set()
    own: set[int] = set()
    for place, stage in enumerate(section.network.stages):
        here = section.begin <= place and (section.end is None or place < section.end)
        (own if here else of_others).update(id(module) for module in stage.modules())
    for name, module in section.network.named_modules():
        if id(module) in own or (section.line.is_last and id(module) not in of_others):
            yield name, module


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _type_of(losses: list[Tensor | None]) -> torch.dtype:
    for loss in losses:
        if loss is not None:
            return loss.dtype
    return torch.float32


def _refuse_names(network: StagedNetwork) -> None:
    """Refuse learners that nobody would find."""
    named = [name for stage in network.stages for name in learners_of(stage.name, network.loss_names)]
    if named != network.loss_names:
        raise ValueError(
            f"the learners {', '.join(network.loss_names)} do not follow the names of the stages, "
            f"{', '.join(stage.name for stage in network.stages)}, by which a pipeline finds them; name them "
            "'STAGE.LEARNER', as Stage.full_name does"
        )
