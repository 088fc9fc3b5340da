"""Residual networks: the ResNet-20 for small images, and torchvision's ResNet-50."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.resnets import Residual as Residual
from primenet_lightning.nn.resnets import SmallImageResNet
from primenet_lightning.nn.resnets import he_ as he_
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable


class ResNet20(SmallImageResNet):
    """He et al.'s ResNet of 20 layers for small images.

    Args:
        in_channels: Channels of the images, whose size may be any.
        classes: Number of classes.

    Example:
        >>> ResNet20(in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int = 3, classes: int = 10) -> None:
        super().__init__(20, in_channels, classes)


class CifarResNet20(EndToEnd):
    """`ResNet20`, trained end to end; arguments as in `EndToEnd`."""

    def configure_backbone(self) -> ResNet20:
        """Build the network."""
        return ResNet20(self.in_shape[0], self.num_classes)


class GreyToColour(nn.Module):
    """Repeats the one channel of grey images three times, as the paper does for ResNet-50 (section 4.1).

    Example:
        >>> GreyToColour()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Repeat the one channel; three stay as they are.

        Args:
            x: ``(batch, channels, height, width)``, of one channel or of three.

        Returns:
            ``(batch, 3, height, width)``, without a copy.
        """
        return x.expand(-1, 3, -1, -1)


class ResNet50(EndToEnd):
    """torchvision's ResNet-50, trained end to end; grey images are repeated to three channels.

    Images are taken as the data module normalises them, and at their own size: the network halves them five times,
    so that from 8x8 on its last maps are of one pixel, which takes batches of at least two images in training.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        pretrained: Begin with torchvision's weights of ImageNet, which are downloaded once; the classifier is new.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Raises:
        ValueError: If ``in_channels`` is neither 1 nor 3, or the weights cannot be had.

    Example:
        >>> model = ResNet50(in_channels=1, image_size=(8, 8), num_classes=10).eval()
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        pretrained: bool = False,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels={in_channels} fits no ResNet-50, which takes grey (1) or colour images (3)")
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)

    def configure_backbone(self) -> nn.Sequential:
        """Build the model, with ``network.model.resnet`` as torchvision's."""
        if not self.hparams["pretrained"]:
            resnet = resnet50(num_classes=self.num_classes)
        else:
            resnet = _pretrained()
            resnet.fc = nn.Linear(resnet.fc.in_features, self.num_classes)
        return nn.Sequential(OrderedDict(colour=GreyToColour(), resnet=resnet))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `EndToEnd`; and loading it needs no weights but its own, so that none are downloaded again."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"]["pretrained"] = False


def _pretrained() -> Any:
    weights = ResNet50_Weights.DEFAULT
    try:
        return resnet50(weights=weights)
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut
        raise ValueError(
            f"pretrained=True needs torchvision's weights, which cannot be had ({error}); use pretrained=False, or put "
            f"{weights.url} into {torch.hub.get_dir()}/checkpoints"
        ) from error
