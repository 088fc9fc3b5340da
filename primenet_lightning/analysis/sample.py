"""A fixed, class-balanced sample of images, collected as they pass by."""

from typing import Any

import torch
from torch import Tensor


class BalancedSample:
    """Copies of the first images of each class that a validation shows.

    Validation images come in a fixed order, so that every epoch, and a resumed run, has the same sample; no further
    pass over the data is made. Images are kept on the CPU as the network sees them, normalised. On several devices
    each rank has a sample of its own share.

    Args:
        size: Images in all; each class gets its part, the first classes one more where it does not divide.
        num_classes: Number of classes.

    Attributes:
        images: ``(images, channels, height, width)``, in the order of their coming; empty before the first batch.
        labels: Class indices, ``(images,)``, int64.

    Raises:
        ValueError: If ``size`` is smaller than the number of classes.

    Example:
        >>> sample = BalancedSample(size=4, num_classes=2)
        >>> sample.add(torch.arange(6.0).view(6, 1, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> sample.images.flatten().tolist(), sample.labels.tolist(), sample.full
        ([0.0, 1.0, 3.0, 4.0], [0, 0, 1, 1], True)
    """

    def __init__(self, size: int, num_classes: int) -> None:
        if size < num_classes:
            raise ValueError(f"size={size} is too small for {num_classes} classes; give at least one image a class")
        each, left_over = divmod(size, num_classes)
        self._wanted = torch.full((num_classes,), each)
        self._wanted[:left_over] += 1
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether every class has its images."""
        return not bool(self._wanted.any())

    @property
    def images(self) -> Tensor:
        """The images so far, ``(images, channels, height, width)``; empty before the first batch."""
        return torch.cat(self._images) if self._images else torch.empty(0)

    @property
    def labels(self) -> Tensor:
        """Their labels, ``(images,)``, int64."""
        return torch.cat(self._labels) if self._labels else torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take from a batch what is still wanted.

        Args:
            images: ``(batch, channels, height, width)``; what is taken is copied, the batch itself is not held.
            labels: Class indices, ``(batch,)``.
        """
        if self.full:
            return
        labels = labels.cpu()
        places_by_class: list[Tensor] = []
        for label in self._wanted.nonzero().flatten().tolist():
            places = (labels == label).nonzero().flatten()[: int(self._wanted[label])]
            self._wanted[label] -= len(places)
            places_by_class.append(places)
        chosen = torch.cat(places_by_class).sort().values
        if len(chosen):
            self._images.append(images[chosen.to(images.device)].cpu())  # a gather is a copy
            self._labels.append(labels[chosen])


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor] | None:
    """Take a batch apart, if it is a pair of images and class indices.

    Args:
        batch: Of any data module.

    Returns:
        Images ``(batch, channels, height, width)`` and class indices ``(batch,)``; None for a batch of another kind.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        return None
    images, labels = batch
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        return None
    if images.dim() != 4 or labels.dim() != 1:
        return None
    return images, labels
