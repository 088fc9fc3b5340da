"""What all baselines share: a classifier trained end to end, by backpropagation of the cross-entropy."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer

from primenet_lightning.checkpoint_io import AtomicCheckpointIO
from primenet_lightning.checks import refuse_classes, refuse_data
from primenet_lightning.losses import cross_entropy
from primenet_lightning.metrics import LearnerMetrics
from primenet_lightning.module import COUNT_EVERY
from primenet_lightning.network import HEAD
from primenet_lightning.optimizers import PaperAdam
from primenet_lightning.routing import NonFiniteError


class ImageClassifier(LightningModule, ABC):
    """A network trained end to end on the same data, by the same optimizer and under the same names as `PrimeNet`.

    Logged by epoch, for train, val and test: ``accuracy``, ``error`` (%) and ``loss/head``, the mean cross-entropy.
    On several devices DDP averages the gradients of the ranks' shares, each with the same weight.

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
        super().__init__()
        # of subclasses their own arguments; functions cannot be loaded with weights_only=True
        self.save_hyperparameters(ignore=["optimizer"])
        self.in_shape: tuple[int, int, int] = (in_channels, image_size[0], image_size[1])
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.data_description: dict[str, Any] | None = None
        self._counted_later: list[tuple[Tensor, Tensor, Tensor]] = []
        self.network = self.configure_network()
        self.train_metrics = LearnerMetrics([HEAD], num_classes)
        self.val_metrics = LearnerMetrics([HEAD], num_classes)
        self.test_metrics = LearnerMetrics([HEAD], num_classes)

    @abstractmethod
    def configure_network(self) -> nn.Module:
        """Build the network, for ``self.in_shape`` and ``self.num_classes``."""

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer of all parameters."""
        return self.optimizer(self.parameters())

    # -- training ------------------------------------------------------------------------------------------------------

    def learn(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what is minimised; a subclass may minimise something else.

        Args:
            images: Normalised, ``(batch, channels, height, width)``.
            target: Class indices, ``(batch,)``.

        Returns:
            The loss, a scalar, and the logits that the training accuracy is counted on, ``(batch, classes)``.
        """
        logits: Tensor = self.network(images)
        return cross_entropy(logits, target), logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of one batch.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the epoch.

        Returns:
            The loss, a scalar.

        Raises:
            NonFiniteError: If it is NaN or infinite; before any parameter changes.
        """
        target = batch[1]
        loss, logits = self.learn(self._images(batch[0]), target)
        if not loss.isfinite():
            raise NonFiniteError(HEAD, loss.item(), self.global_step, self._learning_rate())
        self._counted_later.append((logits.detach().argmax(1), target, loss.detach()))
        if len(self._counted_later) == COUNT_EVERY:
            self._count_training()
        return loss

    def _learning_rate(self) -> float | None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        return optimizer.param_groups[0]["lr"] if isinstance(optimizer, Optimizer) else None

    def _count_training(self) -> None:
        """Let torchmetrics count the batches since the last time; once a batch would cost more than a small batch."""
        if self._counted_later:
            predictions, targets, losses = zip(*self._counted_later, strict=True)
            self._counted_later.clear()
            sizes = torch.tensor([len(target) for target in targets], device=losses[0].device)
            mean = (torch.stack(losses) * sizes).sum() / sizes.sum()
            self.train_metrics.update({HEAD: torch.cat(predictions)}, torch.cat(targets), {HEAD: mean})

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training accuracy and loss."""
        self._count_training()
        self._log_metrics("train", self.train_metrics.compute())
        self.train_metrics.reset()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        self.val_metrics.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count on one batch of the validation split; arguments as in `training_step`."""
        self._evaluate(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("val", self.val_metrics.compute())

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left."""
        self.test_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Count on one batch of the test split; arguments as in `training_step`.

        Returns:
            ``"logits"``, ``(batch, classes)``, for callbacks.
        """
        return {"logits": self._evaluate(self.test_metrics, batch)}

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("test", self.test_metrics.compute())

    def _evaluate(self, metrics: LearnerMetrics, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits: Tensor = self(batch[0])
        metrics.update({HEAD: logits}, batch[1], {HEAD: cross_entropy(logits, batch[1])})
        return logits

    def _log_metrics(self, stage: str, results: Mapping[str, Tensor]) -> None:
        """Log what torchmetrics has counted over all ranks."""
        distributed = self.trainer.world_size > 1 and dist.is_available() and dist.is_initialized()
        for name, value in results.items():
            self.log(
                f"{stage}/{name}",
                value,
                prog_bar=(stage, name) == ("val", "error"),
                # the ranks agree already, and the maximum of equal numbers is that number, to the last bit
                sync_dist=distributed,
                reduce_fx="max",
            )

    # -- prediction ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images, normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        logits: Tensor = self.network(self._images(x))
        return logits

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Give class probabilities.

        Args:
            batch: Images, or a sequence whose first element are the images.
            batch_idx: Index of the batch.

        Returns:
            ``(batch, classes)``, float32.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(images)
        return logits.float().softmax(1)

    def _images(self, images: Tensor) -> Tensor:
        """Images in the network's precision (bfloat16 under ``bf16-true``)."""
        if not images.is_floating_point():
            raise ValueError(
                f"images have dtype {images.dtype}; normalise them to floating point, as ImageDataModule does"
            )
        return images.to(self.dtype)

    # -- state and checks ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse data that the network was not built for.

        Raises:
            ValueError: If the data module's images or classes are others.
        """
        self._counted_later.clear()
        self.train_metrics.reset()
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

        Raises:
            NonFiniteError: If a parameter is NaN or infinite: the checkpoint before it remains the last one.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.network.parameters()):
            raise NonFiniteError(HEAD, None, self.global_step, self._learning_rate())
        checkpoint["data_description"] = self.data_description
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` put in.

        Raises:
            ValueError: If the checkpoint is of other classes than the data at hand.
        """
        self.data_description = checkpoint.get("data_description")
        if self._trainer is not None:
            refuse_classes(self.data_description, self._described_data())
