"""Networks that compute more for some images than for others."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.systems.phases import Position, Standing


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


class DynamicNetwork(StagedNetwork):
    """A network whose cost depends on the image, and whose training has phases.

    Called without labels it computes all that it has, whatever the image; `classify` computes what the image needs.
    """

    local = False

    @property
    @abstractmethod
    def standing(self) -> Standing:
        """What keeps its position in a fit."""

    @property
    def position(self) -> Position:
        """Where its fit is, which says what is learned; set by whoever trains, before each batch."""
        return self.standing.position

    @position.setter
    def position(self, position: Position) -> None:
        self.standing.position = position

    @property
    @abstractmethod
    def phase(self) -> str:
        """What is learned now."""

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
