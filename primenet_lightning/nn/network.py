"""A network as the engine sees it: a row of gradient-isolated stages."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.stages import Route, Stage, logits_of, losses_of


class Evaluation(NamedTuple):
    """A batch as all learners see it, without gradients.

    Attributes:
        losses: Scalars by learner.
        logits: ``(batch, classes)`` by the learners that classify; those of ``"head"`` are the network's answer.
        route: One index a stage that chooses; -1 where each sample took its own.
        total: Loss of the learners whose maps went on, the head's included, a scalar; None where each sample took its
            own.
    """

    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    route: Route
    total: Tensor | None = None


class StagedNetwork(nn.Module, ABC, metaclass=CheckedArguments):
    """A row of stages; what the last one hands on are the logits.

    A subclass keeps its parts as it likes and shows them as `stages`. `WholeNetwork` is the simplest, `PrimeNetwork`
    the paper's.
    """

    local: bool = True
    """Whether parts learn by themselves; False for what is trained end to end, as one stage."""

    @property
    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages, first to last."""

    @property
    @abstractmethod
    def in_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""

    @property
    @abstractmethod
    def loss_names(self) -> list[str]:
        """Full names of all learners, in the order in which they run."""

    @property
    def classifier_names(self) -> list[str]:
        """Full names of the learners that classify, in the order in which they run."""
        return self.loss_names

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Say who learns what: disjoint lists of parameters by the full name of the loss that trains them."""
        learners: dict[str, list[nn.Parameter]] = {}
        for stage in self.stages:
            learners |= stage.learners()
        return learners

    def called_modules(self) -> list[nn.Module]:
        """List what a training step calls: what can be compiled, or captured as a CUDA graph, by itself."""
        modules: list[nn.Module] = []
        for stage in self.stages:
            modules += stage.called_modules()
        return modules

    def choices(self) -> Route:
        """Plan whose maps go on without labels, one index a stage."""
        return (0,) * len(self.stages)

    def learned(self, route: Route) -> None:
        """Take note that a training batch is over, and that every loss was a number.

        Args:
            route: Whose maps went on, one index a stage that chooses.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Classify images without labels.

        Args:
            x: ``(batch, *in_shape)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        for stage, choice in zip(self.stages, self.choices(), strict=True):
            x = stage.through(x, choice)
        return x

    @torch.no_grad()
    def evaluate(self, x: Tensor, target: Tensor, choices: Route | None = None) -> Evaluation:
        """Give the verdict of every learner, and the network's own.

        Args:
            x: ``(batch, *in_shape)``.
            target: Class indices, ``(batch,)``.
            choices: Whose maps go on, one index a stage; None goes by `choices`.

        Returns:
            Losses and logits by learner.
        """
        judged = judge(self.stages, self.choices() if choices is None else choices, x, target)
        return Evaluation(judged.losses, judged.logits, judged.route, total_of(judged.went_on))

    def deployed(self) -> "StagedNetwork":
        """Give the network that predicts when training is over; where parts of this one are left out then, another."""
        return self

    @property
    def decided(self) -> bool:
        """Whether a stage has decided against learners that are still here, so that `prune` would drop them."""
        return False

    def prune(self) -> list[str]:
        """Drop, for good, learners that nothing needs any more.

        Returns:
            Their full names.
        """
        return []

    def follow_pruning(self, remaining: Collection[str]) -> None:
        """Drop the learners that another process, which runs their stages, has dropped.

        Args:
            remaining: Full names of all learners that are left.
        """

    def look_at(self, images: Tensor | None) -> None:
        """Take note of the images of a batch, for stages that look at them; called where the first stage is not run.

        Args:
            images: ``(batch, *in_shape)``; None lets go of them.
        """

    def match(self, state_dict: Mapping[str, Any], prefix: str = "") -> None:
        """Prune, or take back, what a checkpoint prunes, or has; before it is loaded.

        Args:
            state_dict: Of this network, or of a model that has it inside.
            prefix: What the names of the network's entries begin with.
        """


class Judged(NamedTuple):
    """A batch as the learners of some stages see it.

    Attributes:
        losses: Scalars by learner.
        logits: ``(batch, classes)`` by the learners that classify.
        route: One index a stage that chooses; -1 where each sample took its own.
        went_on: Losses of the learners whose maps went on, scalars; None where each sample took its own.
        output: What the last of the stages hands on, ``(batch, *out_shape)``.
    """

    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    route: Route
    went_on: list[Tensor | None]
    output: Tensor


@torch.no_grad()
def judge(stages: Sequence[Stage], choices: Sequence[int], x: Tensor, target: Tensor) -> Judged:
    """Run every learner of some stages in a row.

    Args:
        stages: In the order in which they run.
        choices: Whose maps go on, one index a stage.
        x: What the first of them takes, ``(batch, *in_shape)``.
        target: Class indices, ``(batch,)``.

    Returns:
        Their verdicts.
    """
    losses: dict[str, Tensor] = {}
    logits: dict[str, Tensor] = {}
    route: list[int] = []
    went_on: list[Tensor | None] = []
    for stage, planned in zip(stages, choices, strict=True):
        outputs = list(stage.run_learners(x, target))
        losses |= losses_of(outputs)
        logits |= logits_of(outputs)
        choice = stage.settle(x, outputs, planned)
        x = stage.hand_on(x, outputs, choice)
        went_on.append(outputs[choice].loss if choice >= 0 else None)
        if stage.chooses:
            route.append(choice)
    return Judged(losses, logits, tuple(route), went_on, x)


def total_of(went_on: Sequence[Tensor | None]) -> Tensor | None:
    """Add up the losses of the learners whose maps went on.

    Args:
        went_on: Scalars, one a stage, the head's last; None where each sample took its own.

    Returns:
        Their sum, a scalar; None where one is missing.
    """
    *stages, head = went_on
    total = head
    for loss in stages:
        if loss is None or total is None:
            return None
        total = total + loss
    return total
