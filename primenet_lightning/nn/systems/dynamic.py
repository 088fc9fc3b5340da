"""Networks that compute more for some images than for others."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.stages import Stage, StageRow
from primenet_lightning.nn.systems.phases import Position, Span, Standing, Timetable

NOMINAL = 1000
"""Steps of a fit whose length nobody knows."""


class Answer(NamedTuple):
    """What a network of dynamic cost makes of images.

    Attributes:
        logits: ``(batch, classes)``.
        multiply_adds: That each image took, float64 ``(batch,)``.
        measures: What else there is to say of each image, ``(batch,)``, by name.
    """

    logits: Tensor
    multiply_adds: Tensor
    measures: dict[str, Tensor]


class PhasedStage(Stage):
    """A stage that learns something else in each phase of a fit.

    Attributes:
        standing: Keeps the position in the fit.
    """

    standing: Standing

    def __init__(self) -> None:
        super().__init__()
        self._timetable: tuple[int, Timetable] | None = None

    @abstractmethod
    def timetable_of(self, steps: int) -> Timetable:
        """Lay the phases out over a fit.

        Args:
            steps: Optimizer steps.

        Returns:
            The timetable.
        """

    @property
    def timetable(self) -> Timetable:
        """Of the fit at hand; of a network that nobody trains, of one of `NOMINAL` steps."""
        steps = self.standing.position.steps or NOMINAL
        if self._timetable is None or self._timetable[0] != steps:
            self._timetable = (steps, self.timetable_of(steps))
        return self._timetable[1]

    @property
    def phase(self) -> str:
        """What is learned now; of a network that nobody trains, the first phase."""
        position = self.standing.position
        return self.timetable.phase(position.step) if position.steps else self.timetable.spans[0].phase


class DynamicNetwork(StagedNetwork):
    """A network of one stage whose cost depends on the image, and whose training has phases.

    Called without labels it computes all that it has, whatever the image; `classify` computes what the image needs.

    Args:
        in_shape: Of its images.
        stage: The one stage.

    Attributes:
        stage: As given.
    """

    local = False
    stage: PhasedStage

    def __init__(self, in_shape: tuple[int, ...], stage: PhasedStage) -> None:
        super().__init__()
        self._in_shape = in_shape
        self.stage = stage

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        return self._in_shape

    @property
    def stages(self) -> Sequence[Stage]:
        """The one stage."""
        return StageRow([self.stage])

    @property
    def position(self) -> Position:
        """Where its fit is, which says what is learned; set by whoever trains, before each batch."""
        return self.stage.standing.position

    @position.setter
    def position(self, position: Position) -> None:
        self.stage.standing.position = position

    @property
    def phase(self) -> str:
        """What is learned now."""
        return self.stage.phase

    def shares_of_phases(self) -> dict[Position, float]:
        """Tell how long each phase of a fit is.

        Returns:
            A position in each phase, and the phase's share of the steps.
        """
        timetable = self.stage.timetable
        steps = timetable.spans[-1].stop
        first_spans: dict[str, Span] = {}
        for span in timetable.spans:
            if span.length:
                first_spans.setdefault(span.phase, span)
        shares: dict[Position, float] = {}
        for phase, span in first_spans.items():
            shares[Position(span.start, steps)] = timetable.done(phase, steps) / steps
        return shares

    @property
    @abstractmethod
    def decides(self) -> bool:
        """Whether the policy has begun to learn, so that answers go by it."""

    @property
    @abstractmethod
    def measure_names(self) -> list[str]:
        """Names of `Answer.measures`."""

    @property
    def classifier_names(self) -> list[str]:
        """One: policies do not classify."""
        return [self.loss_names[0]]

    @abstractmethod
    def classify(self, x: Tensor) -> Answer:
        """Classify images, computing for each no more than it needs.

        Args:
            x: ``(batch, *in_shape)``.

        Returns:
            Logits and cost.
        """
