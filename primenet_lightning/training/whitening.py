"""Whitening the first layer by the training images, at the start of a fit."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.nn.whitening import Whitening


class WhitenFirstLayer(Callback, metaclass=CheckedArguments):
    """Take the filters of `Whitening` layers from the training images, before the first step.

    The images are those of the data module's training split, normalised as they are trained on and not augmented; none
    of the validation or the test split. Each process looks at the same ones. A layer is whitened once: not at a resume,
    nor where a second fit goes on.

    `LocalLearner` attaches it by itself where its network has such a layer.

    Args:
        images: How many training images to look at, evenly spaced; all if there are fewer.
        epsilon: Added to the variance of each direction, see `Whitening`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> WhitenFirstLayer(images=1000).images
        1000
    """

    def __init__(self, images: int = 5000, epsilon: float = 5e-4) -> None:
        at_least(1, images=images)
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon} must be above 0: it is added to variances, some of which may be 0")
        self.images = images
        self.epsilon = epsilon

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Whiten the layers that are not yet.

        Args:
            trainer: Whose data module has the images.
            pl_module: Whose layers are whitened.

        Raises:
            ValueError: If there is no such layer, or no training images to look at.
        """
        layers = whitening_layers(pl_module)
        if not layers:
            raise ValueError(
                f"WhitenFirstLayer finds no layer to whiten in {type(pl_module).__name__}; leave the callback out, or "
                "begin the network with primenet_lightning.nn.whitening.Whitening"
            )
        # in a pipeline, the layer of another process has no memory here
        waiting = [layer for layer in layers if not layer.weight.is_meta and not layer.is_whitened]
        if not waiting:
            return
        images = self._training_images(trainer)
        for layer in waiting:
            layer.whiten(images.to(layer.weight.device), self.epsilon)

    def _training_images(self, trainer: Trainer) -> Tensor:
        """Some training images, as the network gets them, but for augmentation."""
        data: Any = getattr(trainer, "datamodule", None)
        dataset = getattr(data, "train_dataset", None)
        normalize = getattr(data, "normalize", None)
        if dataset is None or normalize is None:
            raise ValueError(
                "there are no training images to whiten the first layer by: the Trainer was given "
                f"{'no data module' if data is None else type(data).__name__}; give it an ImageDataModule, as "
                "fit(model, datamodule=...), or call whiten(images) of the layer before the fit"
            )
        count = min(self.images, len(dataset))
        places = torch.arange(count) * len(dataset) // count
        pixels, _ = dataset[places]
        images: Tensor = normalize(pixels)
        return images


def whitening_layers(module: nn.Module) -> list[Whitening]:
    """List the layers that are whitened by images.

    Args:
        module: A network.

    Returns:
        The layers.

    Example:
        >>> whitening_layers(nn.Sequential(Whitening(3), nn.ReLU()))
        [Whitening(3, 24, kernel_size=(2, 2), stride=(1, 1))]
    """
    return [layer for layer in module.modules() if isinstance(layer, Whitening)]
