"""What one process of a pipeline has of the network, and what it hears of the rest."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from primenet_lightning.nn.names import learners_of
from primenet_lightning.nn.network import Evaluation, StagedNetwork, judge, total_of
from primenet_lightning.pipeline.line import Line
from primenet_lightning.training.section import Section

Value = TypeVar("Value")


class PipelineSection(Section):
    """Stages in a row that one process of a pipeline runs.

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

    # -- what it runs --------------------------------------------------------------------------------------------------

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

    def follow(self, names: Mapping[str, Any]) -> None:
        """Follow at once what the processes before this one have pruned.

        Args:
            names: Their learners, as they are now.
        """
        before = [name for stage in self.network.stages[: self.begin] for name in self._of_stage(stage.name)]
        if len(before) != len(names):
            self.network.follow_pruning({*names, *self.network.loss_names} - (set(before) - names.keys()))

    def _of_stage(self, stage: str) -> list[str]:
        return learners_of(stage, self.network.loss_names)

    def collect(self, results: Mapping[str, Value]) -> dict[str, Value]:
        """Put together what each process has found out; see `Section.collect`."""
        together: dict[str, Value] = {}
        for of_section in self.line.gather(dict(results)):
            together |= of_section
        return together

    def of_last(self, value: Any) -> Any:
        """Learn what the last process has; see `Section.of_last`."""
        return self.line.of_last(value)


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
