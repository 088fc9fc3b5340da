"""EndToEnd: any model trained by plain backpropagation, under the engine of local learning."""

from abc import abstractmethod
from typing import Any, ClassVar

from torch import nn

from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable


class EndToEnd(Pretrained):
    """A network of one stage: one loss trains all of it, on the same data and under the same names as `PrimeNet`.

    Resuming, several devices, precision, checkpoints and the command line are those of `LocalLearner`.

    A subclass builds its model in `configure_backbone`, which this constructor calls: its own arguments it reads there
    from ``self.hparams``, since its attributes are not yet set.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        optimizer: Makes the optimizer from all parameters that are not frozen. The default is the paper's: Adam,
            learning rate 2e-4, betas (0.99, 0.999).
        **learning: Of `LocalLearner`: ``schedule``, ``accumulate_grad_batches``, ....

    Attributes:
        network: The stage; the model itself is ``network.model``.

    Example:
        >>> import torch
        >>> class Linear(EndToEnd):
        ...     def configure_backbone(self):
        ...         return nn.Sequential(nn.Flatten(), nn.Linear(8 * 8, self.num_classes))
        >>> Linear(in_channels=1, image_size=(8, 8), num_classes=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    network: WholeNetwork

    ENTRIES_OF_0_1: ClassVar[dict[str, str]] = {"network.": "network.model."}

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        learning["local"] = False
        super().__init__(
            in_channels=in_channels, image_size=image_size, num_classes=num_classes, optimizer=optimizer, **learning
        )
        self.build()

    @abstractmethod
    def configure_backbone(self) -> nn.Module:
        """Build the model, for ``self.in_shape`` and ``self.num_classes``."""

    def configure_network(self) -> StagedNetwork:
        """Make the model a network of one stage."""
        return WholeNetwork(self.configure_backbone(), self.in_shape)
