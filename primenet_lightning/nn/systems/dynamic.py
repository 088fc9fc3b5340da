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

    Attributes:
        standing: Where its fit is, which says what is learned. Set by whoever trains, before each batch.
    """

    local = False

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing()

    @property
    def position(self) -> Position:
        """Where its fit is; may be set at any time."""
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
