"""A linear classifier on frozen features, as a LightningModule."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from primenet_lightning.heads import glorot_
from primenet_lightning.losses import cross_entropy
from primenet_lightning.metrics import LearnerMetrics
from primenet_lightning.module import COUNT_EVERY
from primenet_lightning.network import HEAD
from primenet_lightning.optimizers import PaperAdam
from primenet_lightning.routing import NonFiniteError


class LinearProbe(LightningModule):
    """A linear classifier on frozen features, trained by cross-entropy.

    Logged by epoch for train, val and test: ``accuracy``, ``error`` (%) and ``loss/head`` (nats), under the names that
    `PrimeNet` uses. Those of training are taken batch by batch, before the batch is learned from.

    Args:
        num_features: Features an image.
        num_classes: Number of classes.
        backbone: From images to features, whose output is flattened; None: the batches hold features already. It is
            frozen: always in evaluation mode, run without gradients, and no part of the optimizer; for that its
            parameters' ``requires_grad`` is switched off, so hand over a copy of a network that shall go on learning.
        finetune: Whether the backbone learns as well: it is trained as the classifier is, its ``requires_grad``
            switched on. On several devices parameters that no gradient reaches (see `feature_extractor`) then need the
            strategy ``"ddp_find_unused_parameters_true"``.
        optimizer: Makes the optimizer from the parameters that learn; the default is the paper's Adam.

    Raises:
        ValueError: If a number is too small, or ``finetune`` is asked for without a backbone.

    Example:
        >>> probe = LinearProbe(num_features=6, num_classes=3)
        >>> probe(torch.zeros(2, 6)).shape
        torch.Size([2, 3])
        >>> on_images = LinearProbe(16, 3, backbone=nn.Conv2d(1, 4, 3))
        >>> on_images(torch.zeros(2, 1, 4, 4)).shape, len(list(on_images.parameters())), on_images.backbone.training
        (torch.Size([2, 3]), 4, False)
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        backbone: nn.Module | None = None,
        finetune: bool = False,
        optimizer: OptimizerCallable = PaperAdam,
    ) -> None:
        super().__init__()
        for name, value, least in (("num_features", num_features, 1), ("num_classes", num_classes, 2)):
            if value < least:
                raise ValueError(f"{name}={value} is too small; give at least {least}")
        if finetune and backbone is None:
            raise ValueError("finetune=True has nothing to unfreeze: give the backbone, and batches of images")
        self.save_hyperparameters(ignore=["backbone", "optimizer"], logger=False)
        self.num_features, self.num_classes = num_features, num_classes
        self.finetune, self.optimizer = finetune, optimizer
        self.classifier = glorot_(nn.Linear(num_features, num_classes))
        # DDP would wait for gradients of frozen parameters that still ask for them
        self.backbone = None if backbone is None else backbone.requires_grad_(finetune).train(finetune)
        self.train_metrics = LearnerMetrics([HEAD], num_classes)
        self.val_metrics = LearnerMetrics([HEAD], num_classes)
        self.test_metrics = LearnerMetrics([HEAD], num_classes)
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> "LinearProbe":
        """Switch between training and evaluation; a frozen backbone stays in evaluation."""
        super().train(mode)
        if self.backbone is not None and not self.finetune:
            self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: Features, ``(batch, num_features)``; images where there is a backbone.

        Returns:
            Logits, ``(batch, num_classes)``.

        Raises:
            ValueError: If the features are not ``num_features`` an image.
        """
        if self.backbone is not None:
            with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
                x = self.backbone(x).flatten(1)
        x = (x if self.finetune else x.detach()).to(self.dtype)
        if x.dim() != 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"the features have shape {tuple(x.shape)}, but num_features={self.num_features} asks for "
                f"(batch, {self.num_features})"
            )
        logits: Tensor = self.classifier(x)
        return logits

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer of what learns: the classifier, and an unfrozen backbone."""
        return self.optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])

    def on_train_epoch_start(self) -> None:
        """Forget what an aborted epoch may have left."""
        self._seen.clear()
        self.train_metrics.reset()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Give the loss of a batch.

        Args:
            batch: Features, or images where there is a backbone; and class indices, ``(batch,)``.
            batch_idx: Index of the batch in the epoch.

        Returns:
            The mean cross-entropy, a scalar in nats.

        Raises:
            NonFiniteError: If a loss of the last 100 batches was NaN or infinite.
        """
        logits = self(batch[0])
        loss = cross_entropy(logits, batch[1])
        self._seen.append((logits.detach().argmax(1), batch[1], loss.detach()))
        if len(self._seen) == COUNT_EVERY:
            self._count_training()
        return loss

    def _count_training(self) -> None:
        """Let torchmetrics count all batches since the last time; once a batch would cost more than the batch."""
        if not self._seen:
            return
        answers, targets, losses = zip(*self._seen, strict=True)
        self._seen.clear()
        every = torch.stack(losses)
        if not bool(every.isfinite().all()):  # the metric would leave it out
            raise NonFiniteError(HEAD, float(every[~every.isfinite()][0]), self.global_step)
        target = torch.cat(targets)
        sizes = every.new_tensor([len(some) for some in targets])
        self.train_metrics.update({HEAD: torch.cat(answers)}, target, {HEAD: (every * sizes).sum() / len(target)})

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training metrics."""
        self._count_training()
        self._log_metrics("train", self.train_metrics)

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        self.val_metrics.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count on one batch of the validation split; arguments as in `training_step`."""
        self._count(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left."""
        self.test_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Count on one batch of the test split; arguments as in `training_step`.

        Returns:
            ``"logits"``, ``(batch, classes)``, for callbacks.
        """
        return {"logits": self._count(self.test_metrics, batch)}

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("test", self.test_metrics)

    def _count(self, metrics: LearnerMetrics, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits: Tensor = self(batch[0])
        metrics.update({HEAD: logits}, batch[1], {HEAD: cross_entropy(logits, batch[1])})
        return logits

    def _log_metrics(self, stage: str, metrics: LearnerMetrics) -> None:
        for name, value in metrics.compute().items():
            # the ranks agree already, and the maximum of equal numbers is that number, to the last bit
            distributed = self.trainer.world_size > 1
            self.log(f"{stage}/{name}", value, sync_dist=distributed, reduce_fx="max", prog_bar=name == "error")
