"""What predicts: images in, logits or probabilities out, whatever it was trained by."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor


class ImagePredictor(LightningModule):
    """A network of images under Lightning: its forward, and what `Trainer.predict` gives.

    Attributes:
        network: From images, ``(batch, channels, height, width)``, to logits, ``(batch, classes)``.
    """

    network: Any  # a torch module; each subclass says which

    def forward(self, x: Tensor) -> Tensor:
        """Classify images; a PrimeNet without labels, computing only what is routed.

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
