"""Stages: the gradient-isolated parts of a network, each with learners of its own.

A stage says what its learners make of its input, one after the other, and then hands on one detached map. When to go
backward, with whom to exchange gradients, and when to step is the engine's, `primenet_lightning.training.runner`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
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
        feature_map: What it would hand on, ``(batch, ...)``, detached; None of a learner that hands nothing on.
    """

    learner: str
    loss: Tensor
    logits: Tensor | None = None
    feature_map: Tensor | None = None


class StageOutput(NamedTuple):
    """What a stage gives when it is called with targets.

    Attributes:
        features: What goes on, ``(batch, *out_shape)``. No gradient flows into it, but into a part that the stage
            leaves to the loss which follows, such as a projection without a classifier of its own.
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


class Stage(Layer, ABC, metaclass=CheckedArguments):
    """A part of a network that learns by itself: no gradient enters it from the parts that follow.

    It is also a layer for any torch model: ``stage(x)`` is what goes on, with its input and its output detached. Inside
    ``with local_targets(y):`` it leaves its local losses for `collect_local_losses`.

    Args:
        name: In its network; empty in a foreign model. Its learners' full names begin with it.

    Attributes:
        name: As given; a network may set it.
        in_shape: Of one sample, without the batch.
        out_shape: Of what goes on for one sample, pooling included.
        closed: Whether every parameter here learns from a loss here. False where the loss that follows trains a part of
            this stage too.
        chooses: Whether there is a choice of what goes on, which a route then has an index for.

    Example:
        >>> class Dense(Stage):
        ...     in_shape, out_shape = (4,), (8,)
        ...     def __init__(self):
        ...         super().__init__("dense")
        ...         self.layer, self.classifier = nn.Linear(4, 8), nn.Linear(8, 3)
        ...     def learners(self):
        ...         return {self.name: list(self.parameters())}
        ...     def run_learners(self, x, target, share=WHOLE):
        ...         features = self.layer(x.detach()).relu()
        ...         logits = self.classifier(features)
        ...         loss = nn.functional.cross_entropy(logits, target)
        ...         yield LearnerOutput(self.name, loss, logits.detach(), features.detach())
        ...     def through(self, x, choice=0):
        ...         return self.layer(x).relu()
        >>> Dense()(torch.zeros(2, 4)).shape
        torch.Size([2, 8])
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

    @property
    def chooses_by_losses(self) -> bool:
        """Whether `choose` looks at the losses, as by default one of a stage's own; else they may come later."""
        return type(self).choose is not Stage.choose

    @property
    def needs_next(self) -> bool:
        """Whether something here looks at, or is trained by, the stage that follows: both need one process."""
        return not self.closed

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

        Returns:
            The learners' outputs, one at a time; those that may be chosen come first, in the order of their indices.
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
        """Make what the next stage sees. Detached, but for a part that is left to the loss which follows (`closed`).

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

    def called_modules(self) -> list[nn.Module]:
        """List what a training step calls: what can be compiled, or captured as a CUDA graph, by itself.

        Returns:
            The stage's own modules, for a stage that calls each of them.
        """
        return list(self.children())

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


class StageRow(list[Stage]):
    """Stages in the order in which they run; called, it runs a batch through them one by one.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> network = PrimeNet(num_classes=3).network
        >>> for output in network.stages(torch.randn(2, 1, 8, 8), torch.tensor([0, 2])):
        ...     print(list(output.values))
        ['block0.k3', 'block0.k5', 'block0.k7']
        ['head']
    """

    def __call__(self, x: Tensor, target: Tensor) -> Iterator[StageOutput]:
        """Run a batch, each stage on the detached output of the one before.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.

        Yields:
            What each stage gives; whoever drops it after its backward frees its activations.
        """
        for stage in self:
            output = stage(x, target)
            x = output.features
            yield output
            del output


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
