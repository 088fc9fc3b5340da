"""What all classifiers trained by plain backpropagation share: the loss, the counting, and the names of the metrics."""

from abc import ABC, abstractmethod

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from primenet_lightning.models.prime import COUNT_EVERY
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.network import HEAD
from primenet_lightning.training.counting import LearnerMetrics
from primenet_lightning.training.optimizers import OptimizerCallable, PaperAdam


class CrossEntropyClassifier(LightningModule, ABC):
    """A classifier that learns by backpropagation of the cross-entropy, under automatic optimization.

    Logged by epoch for train, val and test, under the names that `PrimeNet` uses: ``accuracy``, ``error`` (%) and
    ``loss/head`` (nats). Those of training are taken batch by batch, before the batch is learned from. On several
    devices DDP averages the gradients of the ranks' shares, each with the same weight; the metrics are of all shares.

    A subclass gives `forward`, and may change what is minimised in `learn`.

    Args:
        num_classes: Number of classes.
        optimizer: Makes the optimizer from the parameters that learn; the default is the paper's: Adam, learning rate
            2e-4, betas (0.99, 0.999).

    Example:
        >>> class Linear(CrossEntropyClassifier):
        ...     def __init__(self):
        ...         super().__init__(num_classes=3)
        ...         self.layer = torch.nn.Linear(5, 3)
        ...     def forward(self, x):
        ...         return self.layer(x)
        >>> loss, logits = Linear().learn(torch.zeros(2, 5), torch.tensor([0, 2]))
        >>> logits.shape
        torch.Size([2, 3])
    """

    def __init__(self, num_classes: int, optimizer: OptimizerCallable = PaperAdam) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.train_metrics = LearnerMetrics([HEAD], num_classes)
        self.val_metrics = LearnerMetrics([HEAD], num_classes)
        self.test_metrics = LearnerMetrics([HEAD], num_classes)
        self._counted_later: list[tuple[Tensor, Tensor, Tensor]] = []

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: What a batch has first: images, ``(batch, channels, height, width)``, or features, ``(batch, features)``.

        Returns:
            Logits, ``(batch, classes)``.
        """

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer of all parameters that are not frozen."""
        return self.optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])

    def setup(self, stage: str) -> None:
        """Forget what an aborted fit may have left."""
        self._counted_later.clear()
        self.train_metrics.reset()

    # -- training ------------------------------------------------------------------------------------------------------

    def learn(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what is minimised; a subclass may minimise something else.

        Args:
            images: What `forward` takes: images, ``(batch, channels, height, width)``, or features, ``(batch,
                features)``.
            target: Class indices, ``(batch,)``.

        Returns:
            The loss, a scalar, and the logits that the training accuracy is counted on, ``(batch, classes)``.
        """
        logits: Tensor = self(images)
        return cross_entropy(logits, target), logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of one batch.

        Args:
            batch: Images, or what else `forward` takes, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the epoch.

        Returns:
            The loss, a scalar.

        Raises:
            NonFiniteError: If it is NaN or infinite; before any parameter changes.
        """
        target = batch[1]
        loss, logits = self.learn(batch[0], target)
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
        """Log the epoch's training metrics."""
        self._count_training()
        self._log_metrics("train", self.train_metrics)
        self.train_metrics.reset()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        self.val_metrics.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count on one batch of the validation split.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.
        """
        self._evaluate(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left."""
        self.test_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Count on one batch of the test split.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.

        Returns:
            ``"logits"``, ``(batch, classes)``, for callbacks.
        """
        return {"logits": self._evaluate(self.test_metrics, batch)}

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("test", self.test_metrics)

    def _evaluate(self, metrics: LearnerMetrics, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits: Tensor = self(batch[0])
        metrics.update({HEAD: logits}, batch[1], {HEAD: cross_entropy(logits, batch[1])})
        return logits

    def _log_metrics(self, stage: str, metrics: LearnerMetrics) -> None:
        """Log what torchmetrics has counted over all ranks."""
        distributed = self.trainer.world_size > 1 and dist.is_available() and dist.is_initialized()
        for name, value in metrics.compute().items():
            self.log(
                f"{stage}/{name}",
                value,
                prog_bar=(stage, name) == ("val", "error"),
                # the ranks agree already, and the maximum of equal numbers is that number, to the last bit
                sync_dist=distributed,
                reduce_fx="max",
            )
