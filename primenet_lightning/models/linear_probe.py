"""A linear classifier on frozen features, as a LightningModule."""

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.layers import glorot_
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.learner import LocalLearner
from primenet_lightning.training.optimizers import OptimizerCallable
from primenet_lightning.training.refusals import refuse_trainer


class ProbeModel(nn.Module):
    """A linear classifier, on features or on a backbone that gives them.

    Args:
        num_features: Features an image.
        num_classes: Number of classes.
        backbone: From images to features, whose output is flattened; None: it is given features.
        finetune: Whether the backbone learns; otherwise it is frozen, always in evaluation mode.

    Example:
        >>> ProbeModel(6, 3)(torch.zeros(2, 6)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, num_features: int, num_classes: int, backbone: nn.Module | None = None, finetune: bool = False
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.finetune = finetune
        self.classifier = glorot_(nn.Linear(num_features, num_classes))
        self.backbone = None if backbone is None else backbone.requires_grad_(finetune).train(finetune)

    def train(self, mode: bool = True) -> "ProbeModel":
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
        if not self.finetune:
            x = x.detach()
        if x.dim() != 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"the features have shape {tuple(x.shape)}, but num_features={self.num_features} asks for "
                f"(batch, {self.num_features})"
            )
        logits: Tensor = self.classifier(x)
        return logits


class LinearProbe(LocalLearner):
    """A linear classifier on frozen features, trained by cross-entropy.

    A network of one stage, `ProbeModel`; how it learns, and what it logs, is `LocalLearner`'s. Batches hold features,
    or images where there is a backbone, and class indices.

    Args:
        num_features: Features an image.
        num_classes: Number of classes.
        backbone: From images to features, whose output is flattened; None: the batches hold features already. It is
            frozen: always in evaluation mode, run without gradients, and no part of the optimizer; for that its
            parameters' ``requires_grad`` is switched off, so hand over a copy of a network that shall go on learning.
        finetune: Whether the backbone learns as well: it is trained as the classifier is, its ``requires_grad``
            switched on.
        optimizer: Makes the optimizer from the parameters that learn; the default is the paper's Adam.
        **learning: Of `LocalLearner`: ``schedule``, ``accumulate_grad_batches``, ....

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

    network: WholeNetwork

    UNSAVED: ClassVar[tuple[str, ...]] = (*LocalLearner.UNSAVED, "backbone", "in_channels", "image_size")
    LOGS_HYPERPARAMETERS: ClassVar[bool] = False
    ENTRIES_OF_0_1: ClassVar[dict[str, str]] = {
        "classifier.": "network.model.classifier.",
        "backbone.": "network.model.backbone.",
    }

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        backbone: nn.Module | None = None,
        finetune: bool = False,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        at_least(1, num_features=num_features)
        at_least(2, num_classes=num_classes)
        if finetune and backbone is None:
            raise ValueError("finetune=True has nothing to unfreeze: give the backbone, and batches of images")
        for name in ("test_flips", "test_shifts"):
            if backbone is None and learning.get(name):
                raise ValueError(f"{name}={learning[name]} is for images, and without a backbone there are features")
        learning["local"] = False
        super().__init__(num_classes=num_classes, optimizer=optimizer, **learning)
        self.num_features = num_features
        self.finetune = finetune
        self._given_backbone = [backbone]  # in a list, so that it is registered once, inside the network
        self.build()

    def configure_network(self) -> StagedNetwork:
        """Make the probe a network of one stage."""
        backbone = self._given_backbone.pop()
        model = ProbeModel(self.num_features, self.num_classes, backbone, self.finetune)
        return WholeNetwork(model, (self.num_features,))

    @property
    def classifier(self) -> nn.Module:
        """The linear classifier."""
        model: Any = self.network.model
        classifier: nn.Module = model.classifier
        return classifier

    @property
    def backbone(self) -> nn.Module | None:
        """What gives the features, or None."""
        model: Any = self.network.model
        backbone: nn.Module | None = model.backbone
        return backbone

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """Refuse what could not work with this Trainer; features may be of any data.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: Not looked at.

        Raises:
            ValueError: As `LocalLearner.check`.
        """
        refuse_trainer(trainer, stage, self.rhythm)
