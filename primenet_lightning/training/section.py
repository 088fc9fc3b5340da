"""Section: the stages that one process runs. Of a network in one process, all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from primenet_lightning.nn.names import learners_of
from primenet_lightning.nn.network import Evaluation, StagedNetwork
from primenet_lightning.nn.numbers import Share
from primenet_lightning.nn.stages import Stage

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from primenet_lightning.training.exchange import Exchange

Value = TypeVar("Value")


@dataclass
class Passage:
    """What a training batch has come to on its way through the stages.

    Attributes:
        target: Class indices, ``(batch,)``.
        share: Of this process in the batch.
        values: Losses by learner.
        route: Whose map went on, one index a stage that chooses.
        went_on: Losses of the learners whose maps went on, one a stage.
    """

    target: Tensor
    share: Share
    values: dict[str, float] = field(default_factory=dict)
    route: list[int] = field(default_factory=list)
    went_on: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        """The loss of the learners whose maps went on, in the order of one process's sum."""
        return sum(self.went_on[:-1], self.went_on[-1])


class Section:
    """Stages in a row that one process runs: all of a network, or in a pipeline some.

    Args:
        network: Whose stages.
        begin: Place of the first of them.
        end: Place behind the last of them; None is the network's end.

    Attributes:
        network: The whole network; in a pipeline the parameters of other sections have no memory here.

    Example:
        >>> from torch import zeros
        >>> from primenet_lightning import PrimeNet
        >>> network = PrimeNet(num_classes=3, depth=2).network
        >>> [stage.name for stage in Section(network, 1).stages], Section(network, 1).classifier_names[-1]
        (['block1', 'head'], 'head')
    """

    def __init__(self, network: StagedNetwork, begin: int = 0, end: int | None = None) -> None:
        self.network = network
        self.begin = begin
        self.end = end

    # -- what it has ---------------------------------------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether it has all stages."""
        return self.begin == 0 and self.end is None

    @property
    def has_head(self) -> bool:
        """Whether the last stage is run here, which gives the logits."""
        return True

    @property
    def stages(self) -> Sequence[Stage]:
        """First to last."""
        return self.network.stages[self.begin : self.end]

    @property
    def loss_names(self) -> list[str]:
        """Full names of its learners, in the order in which they run."""
        return self._own(self.network.loss_names)

    @property
    def classifier_names(self) -> list[str]:
        """Full names of those that classify, in the order in which they run."""
        return self._own(self.network.classifier_names)

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Say who learns what: disjoint lists of parameters by the full name of the loss that trains them."""
        learners = self.network.learners()
        if self.is_whole:
            return learners
        return {name: learners[name] for name in self._own(list(learners))}

    def _own(self, names: Sequence[str]) -> list[str]:
        if self.is_whole:
            return list(names)
        own: list[str] = []
        for stage in self.stages:
            own += learners_of(stage.name, names)
        return own

    # -- what it does --------------------------------------------------------------------------------------------------

    def enter(self, x: Tensor, passage: Passage) -> Tensor:
        """Take in what the first stage here sees of a training batch.

        Args:
            x: Images, ``(batch, *in_shape)``.
            passage: Of the batch; gets what the stages before have made of it.

        Returns:
            The input of the first stage here, ``(batch, ...)``.
        """
        return x

    def leave(self, x: Tensor, passage: Passage) -> None:
        """Let go of what the last stage here hands on of a training batch.

        Args:
            x: Of that stage, ``(batch, ...)``.
            passage: Of the batch.
        """

    def evaluate(self, x: Tensor, target: Tensor) -> Evaluation:
        """Give the verdict of every learner here; see `StagedNetwork.evaluate`.

        Args:
            x: Images, ``(batch, *in_shape)``.
            target: Class indices, ``(batch,)``.

        Returns:
            Losses and logits by learner.
        """
        return self.network.evaluate(x, target)

    def predict(self, x: Tensor) -> Tensor:
        """Classify images without labels.

        Args:
            x: Images, ``(batch, *in_shape)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        logits: Tensor = self.network(x)
        return logits

    # -- what it knows of the other sections ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Learn from the other sections what a label-free forward depends on; every process has to call it."""

    def collect(self, results: Mapping[str, Value]) -> dict[str, Value]:
        """Put together what each section has found out; every process has to call it.

        Args:
            results: By name.

        Returns:
            Those of all sections, first to last, on every process.
        """
        return dict(results)

    def of_last(self, value: Any) -> Any:
        """Learn what the last section has; every process has to call it.

        Args:
            value: Anything that can be pickled.

        Returns:
            The last section's.
        """
        return value


@runtime_checkable
class DividesNetworks(Protocol):
    """A strategy of the Trainer that gives each process some stages."""

    def check(self, trainer: "Trainer", model: "LightningModule") -> None:
        """Refuse what cannot be divided; before the processes are started, too.

        Args:
            trainer: The Trainer.
            model: With a ``network``.

        Raises:
            ValueError: If it cannot work.
        """

    def divide(self, model: "LightningModule") -> tuple[Section, "Exchange"]:
        """Give this process its stages; all processes have been started.

        Args:
            model: With a ``network``.

        Returns:
            The stages, and the exchange with other processes that have the same.
        """
        ...
