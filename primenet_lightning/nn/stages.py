"""A network as the engine sees it: a row of gradient-isolated stages, each with learners of its own.

A stage says what its learners make of its input, one after the other, and then hands on one detached map. When to go
backward, with whom to exchange gradients, and when to step is the engine's, `primenet_lightning.training.runner`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from primenet_lightning.nn.names import LearnerName
from primenet_lightning.nn.numbers import WHOLE, Share, on_host
from primenet_lightning.nn.targets import Layer, handed_targets

Route = tuple[int, ...]
"""Whose map goes on, one index a stage that chooses: a *joint* route through the network."""


class LearnerOutput(NamedTuple):
    """What one learner made of a batch.

    Attributes:
        learner: Its full name: ``"block0.k3"``, ``"layer2"``, ``"head"``.
        loss: Its local loss, a scalar; its graph is disjoint from every other learner's.
        logits: ``(batch, classes)``, detached; None of a learner that does not classify, such as a gate.
        feature_map: What it would hand on, detached; None of a learner that hands nothing on.
    """

    learner: str
    loss: Tensor
    logits: Tensor | None = None
    feature_map: Tensor | None = None


class StageOutput(NamedTuple):
    """What a stage gives when it is called with targets.

    Attributes:
        features: What goes on. No gradient flows into it, but into a part that the stage leaves to the loss which
            follows, such as a projection without a classifier of its own.
        losses: Local losses, scalars, by learner.
        logits: Local logits, ``(batch, classes)``, by the learners that classify.
        values: The losses as numbers on the host, by learner; empty in evaluation, where nothing is chosen by them.
        route: Index of the learner whose map goes on.
    """

    features: Tensor
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    values: dict[str, float]
    route: int


class Evaluation(NamedTuple):
    """A batch as all learners see it, without gradients.

    Attributes:
        losses: Scalars by learner.
        logits: ``(batch, classes)`` by the learners that classify; those of ``"head"`` are the network's answer.
        route: One index a stage that chooses; -1 where each sample took its own.
        total: Loss of the learners whose maps went on, the head's included; None where each sample took its own.
    """

    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    route: Route
    total: Tensor | None = None


class Stage(Layer, ABC):
    """A part of a network that learns by itself: no gradient enters it from the parts that follow.

    It is also a layer for any torch model: ``stage(x)`` is what goes on, with its input and its output detached. Inside
    ``with local_targets(y):`` it leaves its local losses for `collect_local_losses`.

    Attributes:
        name: In its network; empty in a foreign model. Its learners' full names begin with it.
        in_shape: Of one sample, without the batch.
        out_shape: Of what goes on for one sample, pooling included.
        closed: Whether every parameter here learns from a loss here. False where the loss that follows trains a part of
            this stage too.
        chooses: Whether there is a choice of what goes on, which a route then has an index for.
    """

    name: str
    in_shape: tuple[int, ...]
    closed: bool = True
    chooses: bool = False

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name

    @property
    @abstractmethod
    def out_shape(self) -> tuple[int, ...]:
        """Of what goes on for one sample, pooling included."""

    def full_name(self, learner: str) -> str:
        """Tell how a learner of this stage is called in the network.

        Args:
            learner: Its name within the stage.

        Returns:
            Both joined by a dot; in a foreign model the learner's name alone.
        """
        return str(LearnerName(self.name, learner))

    @abstractmethod
    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Say who learns what: disjoint lists of parameters by the full name of the loss that trains them."""

    @abstractmethod
    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Run the learners, one after the other, on the detached input.

        A learner runs when the one before it has been taken: whoever goes backward at once has the graph of one
        learner alive at a time.

        Args:
            x: The stage's input, ``(batch, *in_shape)``.
            target: Class indices, ``(batch,)``.
            share: Of this process in the global batch.

        Yields:
            The learners' outputs; those that may be chosen come first, in the order of their indices.
        """

    def choose(self, x: Tensor, outputs: Sequence[LearnerOutput], values: Sequence[float], share: Share = WHOLE) -> int:
        """Choose in training whose map goes on, and take note of the batch. Labels speak through the values alone.

        Args:
            x: The stage's input, ``(batch, *in_shape)``.
            outputs: Of `run_learners`.
            values: Their losses over the global batch.
            share: Of this process in that batch.

        Returns:
            The place of the learner in ``outputs``.
        """
        return 0

    def settle(self, x: Tensor, outputs: Sequence[LearnerOutput], planned: int) -> int:
        """Tell in evaluation what a planned choice comes to on this batch. Remembers nothing.

        Args:
            x: The stage's input, ``(batch, *in_shape)``.
            outputs: Of `run_learners`.
            planned: Of the network's route.

        Returns:
            The place of the learner in ``outputs``.
        """
        return planned

    def hand_on(self, x: Tensor, outputs: Sequence[LearnerOutput], choice: int) -> Tensor:
        """Make what the next stage sees. It is detached; this is the one place where a network's gradient is cut.

        Args:
            x: The stage's input, ``(batch, *in_shape)``.
            outputs: Of `run_learners`.
            choice: The place of the learner whose map goes on.

        Returns:
            ``(batch, *out_shape)``.
        """
        feature_map = outputs[choice].feature_map
        assert feature_map is not None
        return feature_map

    @abstractmethod
    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Compute what goes on without labels, and no more than that needs. The graph is whole.

        Args:
            x: The stage's input, ``(batch, *in_shape)``.
            choice: Whose map goes on.

        Returns:
            ``(batch, *out_shape)``.
        """

    def prune(self) -> list[str]:
        """Drop, for good, learners that nothing needs any more.

        Returns:
            Their full names.
        """
        return []

    # -- as a layer in a foreign model ---------------------------------------------------------------------------------

    def choice(self) -> int:
        """Tell whose map goes on without labels in a foreign model."""
        return 0

    def remember(self, choice: int) -> None:
        """Take note of a training batch in a foreign model.

        Args:
            choice: Whose map went on.
        """

    def isolated(self, x: Tensor, choice: int = 0) -> Tensor:
        """Compute what goes on without labels, with no gradient through the stage.

        Args:
            x: The stage's input, ``(batch, *in_shape)``.
            choice: Whose map goes on.

        Returns:
            ``(batch, *out_shape)``.
        """
        return self.through(x.detach(), choice).detach()

    @overload
    def forward(self, x: Tensor, target: None = None) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, target: Tensor) -> StageOutput: ...

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | StageOutput:
        """Hand on a batch; with targets, also give the local losses.

        Args:
            x: ``(batch, *in_shape)``.
            target: Class indices, ``(batch,)``.

        Returns:
            What goes on, ``(batch, *out_shape)``; with ``target``, a `StageOutput`. In evaluation mode the targets
            serve the losses only: the choice of what goes on does not see them.

        Raises:
            ValueError: If the stage cannot take such an input.
            NonFiniteError: If a local loss is NaN or infinite, in training.
        """
        if target is not None:
            return self._learn(x, target, self._share()) if self.training else self._judge(x, target)
        handed = handed_targets()
        if handed is None or not self.training:
            return self.isolated(x, self.choice())
        output = self._learn(x, handed.target, handed.share)
        self.waiting_losses = output.losses
        return output.features

    @staticmethod
    def _share() -> Share:
        handed = handed_targets()
        return WHOLE if handed is None else handed.share

    def _learn(self, x: Tensor, target: Tensor, share: Share) -> StageOutput:
        outputs = list(self.run_learners(x, target, share))
        values = on_host({output.learner: output.loss for output in outputs}, share)
        choice = self.choose(x.detach(), outputs, list(values.values()), share)
        self.remember(choice)
        return StageOutput(self.hand_on(x, outputs, choice), losses_of(outputs), logits_of(outputs), values, choice)

    @torch.no_grad()
    def _judge(self, x: Tensor, target: Tensor) -> StageOutput:
        outputs = list(self.run_learners(x, target))
        choice = self.settle(x, outputs, self.choice())
        return StageOutput(self.hand_on(x, outputs, choice), losses_of(outputs), logits_of(outputs), {}, choice)


class StagedNetwork(nn.Module, ABC):
    """A row of stages; what the last one hands on are the logits.

    A subclass keeps its parts as it likes and shows them as `stages`.
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
        losses: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        route: list[int] = []
        went_on: list[Tensor | None] = []
        for stage, planned in zip(self.stages, self.choices() if choices is None else choices, strict=True):
            outputs = list(stage.run_learners(x, target))
            losses |= losses_of(outputs)
            logits |= logits_of(outputs)
            choice = stage.settle(x, outputs, planned)
            x = stage.hand_on(x, outputs, choice)
            went_on.append(outputs[choice].loss if choice >= 0 else None)
            if stage.chooses:
                route.append(choice)
        return Evaluation(losses, logits, tuple(route), _total(went_on))

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

    def match(self, state_dict: Mapping[str, Any], prefix: str = "") -> None:
        """Prune, or take back, what a checkpoint prunes, or has; before it is loaded.

        Args:
            state_dict: Of this network, or of a model that has it inside.
            prefix: What the names of the network's entries begin with.
        """


def losses_of(outputs: Sequence[LearnerOutput]) -> dict[str, Tensor]:
    """Sort out the losses of a stage.

    Args:
        outputs: Of its learners.

    Returns:
        Scalars by learner.
    """
    return {output.learner: output.loss for output in outputs}


def logits_of(outputs: Sequence[LearnerOutput]) -> dict[str, Tensor]:
    """Sort out the logits of a stage.

    Args:
        outputs: Of its learners.

    Returns:
        ``(batch, classes)`` by the learners that classify.
    """
    return {output.learner: output.logits for output in outputs if output.logits is not None}


def _total(losses: Sequence[Tensor | None]) -> Tensor | None:
    """The head's loss, and those of the stages before it."""
    *stages, head = losses
    total = head
    for loss in stages:
        if loss is None or total is None:
            return None
        total = total + loss
    return total
