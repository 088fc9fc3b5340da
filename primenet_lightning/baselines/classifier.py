"""What all baselines share: a classifier trained end to end, by backpropagation of the cross-entropy."""

from abc import abstractmethod
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import nn

from primenet_lightning.models.classifier import CrossEntropyClassifier
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.network import HEAD
from primenet_lightning.training.checkpoints import AtomicCheckpointIO
from primenet_lightning.training.optimizers import OptimizerCallable, PaperAdam
from primenet_lightning.training.predictor import ImagePredictor
from primenet_lightning.training.refusals import refuse_classes, refuse_data


class ImageClassifier(ImagePredictor, CrossEntropyClassifier):
    """A network trained end to end on the same data, by the same optimizer and under the same names as `PrimeNet`.

    What it learns from, counts and logs is that of `CrossEntropyClassifier`.

    A subclass builds its network in `configure_network`, which this constructor calls: its own arguments it reads
    there from ``self.hparams``, since its attributes are not yet set.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        optimizer: Makes the optimizer from all parameters. The default is the paper's: Adam, learning rate 2e-4,
            betas (0.99, 0.999). It is no part of a checkpoint's hyperparameters, whose loading must run no code.

    Attributes:
        network: From images to logits.
        in_shape: Channels, height and width of the images.
        data_description: Of the data trained on, from `ImageDataModule.description`; None before the fit.

    Example:
        >>> import torch
        >>> class Linear(ImageClassifier):
        ...     def configure_network(self):
        ...         return nn.Sequential(nn.Flatten(), nn.Linear(8 * 8, self.num_classes))
        >>> Linear(in_channels=1, image_size=(8, 8), num_classes=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        optimizer: OptimizerCallable = PaperAdam,
    ) -> None:
        super().__init__(num_classes, optimizer)
        # of subclasses their own arguments; functions cannot be loaded with weights_only=True
        self.save_hyperparameters(ignore=["optimizer"])
        self.in_shape: tuple[int, int, int] = (in_channels, image_size[0], image_size[1])
        self.data_description: dict[str, Any] | None = None
        self.network = self.configure_network()

    @abstractmethod
    def configure_network(self) -> nn.Module:
        """Build the network, for ``self.in_shape`` and ``self.num_classes``."""

    # -- state and checks ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse data that the network was not built for.

        Args:
            stage: Lightning's; in ``"fit"`` the description of the data is kept for checkpoints.

        Raises:
            ValueError: If the data module's images or classes are others.
        """
        super().setup(stage)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the default, nobody's choice
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        described = self._described_data()
        if described is not None:
            datamodule = type(self.trainer.datamodule).__name__  # type: ignore[attr-defined]
            refuse_data(described, datamodule, self.in_shape, self.num_classes, type(self).__name__)
            if stage == "fit":
                self.data_description = described

    def _described_data(self) -> dict[str, Any] | None:
        """What the Trainer's data module says of its data, if it is one that does."""
        describe = getattr(getattr(self.trainer, "datamodule", None), "description", None)
        return None if describe is None else describe()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what prediction needs beside the weights: this class's path, and the description of the data.

        Args:
            checkpoint: Lightning's; added to.

        Raises:
            NonFiniteError: If a parameter is NaN or infinite: the checkpoint before it remains the last one.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise NonFiniteError(HEAD, None, self.global_step, self._learning_rate())
        checkpoint["data_description"] = self.data_description
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` put in.

        Args:
            checkpoint: What was saved.

        Raises:
            ValueError: If the checkpoint is of other classes than the data at hand.
        """
        self.data_description = checkpoint.get("data_description")
        if self._trainer is not None:
            refuse_classes(self.data_description, self._described_data())
