"""A linear classifier on frozen features, as a LightningModule."""

import torch
from torch import Tensor, nn

from primenet_lightning.models.classifier import CrossEntropyClassifier
from primenet_lightning.nn.layers import glorot_
from primenet_lightning.training.optimizers import OptimizerCallable, PaperAdam


class LinearProbe(CrossEntropyClassifier):
    """A linear classifier on frozen features, trained by cross-entropy.

    How it learns, and what it logs, is that of `CrossEntropyClassifier`; batches hold features, or images where there
    is a backbone, and class indices.

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
        for name, value, least in (("num_features", num_features, 1), ("num_classes", num_classes, 2)):
            if value < least:
                raise ValueError(f"{name}={value} is too small; give at least {least}")
        if finetune and backbone is None:
            raise ValueError("finetune=True has nothing to unfreeze: give the backbone, and batches of images")
        super().__init__(num_classes, optimizer)
        self.save_hyperparameters(ignore=["backbone", "optimizer"], logger=False)
        self.num_features, self.finetune = num_features, finetune
        self.classifier = glorot_(nn.Linear(num_features, num_classes))
        # DDP would wait for gradients of frozen parameters that still ask for them
        self.backbone = None if backbone is None else backbone.requires_grad_(finetune).train(finetune)

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
