"""A fixed, class-balanced sample of the validation images, collected while they pass by."""

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
        parts = [size // num_classes + (label < size % num_classes) for label in range(num_classes)]
        self._wanted = torch.tensor(parts)
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether every class has its images."""
        return not bool(self._wanted.any())

    @property
    def images(self) -> Tensor:
        """The images so far."""
        return torch.cat(self._images) if self._images else torch.empty(0)

    @property
    def labels(self) -> Tensor:
        """Their labels."""
        return torch.cat(self._labels) if self._labels else torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return sum(len(labels) for labels in self._labels)

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take from a batch what is still wanted.

        Args:
            images: ``(batch, channels, height, width)``; what is taken is copied, the batch itself is not held.
            labels: Class indices, ``(batch,)``.
        """
        if self.full:
            return
        labels = labels.cpu()
        chosen = []
        for label in self._wanted.nonzero().flatten().tolist():
            places = (labels == label).nonzero().flatten()[: int(self._wanted[label])]
            self._wanted[label] -= len(places)
            chosen.append(places)
        order = torch.cat(chosen).sort().values
        if len(order):
            self._images.append(images[order.to(images.device)].cpu())  # a gather is a copy
            self._labels.append(labels[order])


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor] | None:
    """A batch's two parts, if it is a pair of images and class indices."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        images, labels = batch
        if isinstance(images, Tensor) and isinstance(labels, Tensor) and images.dim() == 4 and labels.dim() == 1:
            return images, labels
    return None
