"""scikit-learn's digits: real scans that are always there, without a download."""

from typing import Any

import numpy as np
import torch

from primenet_lightning.datamodules.base import Arrays, ImageDataModule
from primenet_lightning.datamodules.splits import stratified_split

TEST_FRACTION = 0.2
TEST_SEED = 0  # fixed: another seed for the data must never move images into the test split


class DigitsDataModule(ImageDataModule):
    """1,797 grey 8x8 scans of handwritten digits, shipped inside scikit-learn.

    The scans have 17 levels, 0 to 16. They become ``level * 255 / 16``, rounded to the nearest whole number
    (the one tie, 127.5, to the even 128), which loses nothing. A fixed, stratified fifth (359 images) is the
    test split.

    Args:
        batch_size: As in `ImageDataModule`.
        eval_batch_size: As in `ImageDataModule`.
        **kwargs: The other arguments of `ImageDataModule`; ``root``, ``download`` and ``verify`` have no
            effect.

    Example:
        >>> data = DigitsDataModule(batch_size=32)
        >>> data.setup("fit")
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, images.dtype, len(data.train_dataset), len(data.validation_dataset)
        (torch.Size([32, 1, 8, 8]), torch.uint8, 1294, 144)
    """

    name = "digits"
    num_classes = 10
    in_channels = 1
    image_size = (8, 8)
    class_names = tuple("0123456789")

    def __init__(self, *, batch_size: int = 64, eval_batch_size: int = 500, **kwargs: Any) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, **kwargs)

    def load_arrays(self) -> Arrays:
        """Read the scans and set the test split apart."""
        from sklearn.datasets import load_digits  # takes a second

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        labels = digits.target
        rest, held_out = stratified_split(torch.from_numpy(labels), round(TEST_FRACTION * len(labels)), TEST_SEED)
        return images[rest], labels[rest], images[held_out], labels[held_out]
