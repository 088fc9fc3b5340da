"""A network with several exits as the engine sees it: one stage, in which each exit has a loss."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from primenet_lightning.nn.exits.network import ExitNetwork, answers
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.stages import LearnerOutput, Stage, StageRow


class ExitAnswers(NamedTuple):
    """What all exits answer.

    Attributes:
        logits: ``(batch, classes)`` of each exit, the first one first.
        teacher: ``(batch, classes)``: what exits may be taught by; None where nobody teaches.
    """

    logits: list[Tensor]
    teacher: Tensor | None = None


class LearningExits(ExitNetwork, Protocol):
    """What the engine asks of a network with several exits; it is a module, too."""

    def answer_all(self, x: Tensor) -> ExitAnswers:
        """Answer at every exit.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            The answers.
        """
        ...

    def parts(self, exit_index: int) -> list[nn.Module]:
        """Name what lies between the exit before and this one, this exit's classifier included.

        Args:
            exit_index: Of the exit, from 0.

        Returns:
            Modules; those of all exits together have every parameter once.
        """
        ...


ExitLosses = Callable[[ExitAnswers, Tensor], list[Tensor]]
"""From all answers and targets, ``(batch,)``, to the loss of each exit, scalars."""


def exit_cross_entropies(answers: ExitAnswers, target: Tensor) -> list[Tensor]:
    """Compute the cross-entropy of each exit.

    Args:
        answers: Of all exits.
        target: Class indices, ``(batch,)``.

    Returns:
        Scalars, one an exit.
    """
    return [cross_entropy(logits, target) for logits in answers.logits]


def exit_names(exits: int) -> list[str]:
    """Name exits as learners: the last one is the head.

    Args:
        exits: How many there are.

    Returns:
        One name an exit.

    Example:
        >>> exit_names(3)
        ['exit0', 'exit1', 'head']
    """
    return [*(f"exit{index}" for index in range(exits - 1)), HEAD]


class ExitStage(Stage):
    """All exits of a network, whose losses go backward together: earlier layers learn from the exits behind them, too.

    What lies between two exits belongs to the learner of the exit that follows: by its optimizer it is updated.

    Args:
        model: With several exits.
        losses: Of each exit, scalars, from the answers of all.
    """

    def __init__(self, model: nn.Module, losses: ExitLosses = exit_cross_entropies) -> None:
        super().__init__(HEAD)
        self.model = model
        self.losses = losses

    @property
    def exits(self) -> LearningExits:
        """The model, typed."""
        exits: LearningExits = self.model  # type: ignore[assignment]
        return exits

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Not known: nothing follows that would have to fit."""
        return ()

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """One learner an exit, with every parameter that is not frozen."""
        learners: dict[str, list[nn.Parameter]] = {}
        for index, name in enumerate(exit_names(self.exits.num_exits)):
            parameters = nn.ModuleList(self.exits.parts(index)).parameters()
            learners[name] = [parameter for parameter in parameters if parameter.requires_grad]
        return learners

    def run_learners(self, x: Tensor, target: Tensor, share: Share = WHOLE) -> Iterator[LearnerOutput]:
        """Run the model up to its last exit, and give each exit's loss; see `Stage.run_learners`."""
        given = self.exits.answer_all(x)
        losses = self.losses(given, target)
        for name, loss, logits in zip(exit_names(len(losses)), losses, given.logits, strict=True):
            yield LearnerOutput(name, loss, logits.detach(), logits.detach())

    @property
    def chooses_by_losses(self) -> bool:
        """No: the last exit is taken."""
        return False

    def choose(self, x: Tensor, outputs: Sequence[LearnerOutput], values: Sequence[float], share: Share = WHOLE) -> int:
        """Take the last exit; see `Stage.choose`."""
        return len(outputs) - 1

    def settle(self, x: Tensor, outputs: Sequence[LearnerOutput], planned: int) -> int:
        """Take the last exit; see `Stage.settle`."""
        return len(outputs) - 1

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Answer at the last exit; see `Stage.through`."""
        *_, logits = answers(self.exits, x)
        return logits


class ExitsNetwork(StagedNetwork):
    """A network of one stage with several exits, trained end to end.

    Args:
        model: With several exits, see `LearningExits`.
        in_shape: Of one image, without the batch.
        losses: Of each exit, scalars, from the answers of all.
    """

    local = False

    def __init__(self, model: nn.Module, in_shape: tuple[int, ...], losses: ExitLosses = exit_cross_entropies) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self._in_shape = in_shape

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Of one image, without the batch."""
        return self._in_shape

    @property
    def exits(self) -> LearningExits:
        """The model, typed."""
        exits: LearningExits = self.model  # type: ignore[assignment]
        return exits

    @property
    def stages(self) -> StageRow:
        """The one stage. It is made when it is asked for, so that the model's names in checkpoints stay its own."""
        return StageRow([ExitStage(self.model, self.losses)])

    @property
    def loss_names(self) -> list[str]:
        """``exit0``, ``exit1``, ..., ``head``."""
        return exit_names(self.exits.num_exits)
