"""Images as one uint8 tensor: how arrays become it, and the dataset that gathers whole batches out of it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from primenet_lightning.argument_types import CheckedArguments

Array = npt.NDArray[Any] | Tensor


class ImageTensors(Dataset[tuple[Tensor, Tensor]], metaclass=CheckedArguments):
    """Images and labels in memory, indexed by a whole batch at once.

    One gather per batch, where a `DataLoader` otherwise fetches, converts and stacks image by image. Several of
    these may look at different indices of the same memory.

    Args:
        images: uint8 (images, channels, height, width).
        labels: Class indices, int64 (images,).
        indices: Which of them belong to this dataset, int64 (chosen,); all if None.

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
        >>> dataset = ImageTensors(images, torch.tensor([5, 6, 7, 8]), indices=torch.tensor([1, 3]))
        >>> pixels, labels = dataset[torch.tensor([1, 0])]
        >>> pixels.flatten().tolist(), labels.tolist()
        ([3, 1], [8, 6])
    """

    def __init__(self, images: Tensor, labels: Tensor, indices: Tensor | None = None) -> None:
        self.images = images
        self.labels = labels
        self.indices = indices

    def __len__(self) -> int:
        return len(self.images if self.indices is None else self.indices)

    def __getitem__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch.

        Args:
            positions: Places in this dataset, int64 (batch,).

        Returns:
            uint8 images (batch, channels, height, width) and their int64 labels (batch,).
        """
        rows = positions if self.indices is None else self.indices.index_select(0, positions)
        # numpy copies row by row in this thread; torch would wake all its threads for so small a copy, and on
        # a busy machine it waits milliseconds for them
        pixels = self.images.numpy().take(rows.numpy(), axis=0)
        return torch.from_numpy(pixels), self.labels.index_select(0, rows)

    def all_labels(self) -> Tensor:
        """The labels of this dataset in order, int64 (images,)."""
        return self.labels if self.indices is None else self.labels.index_select(0, self.indices)


def to_image_tensor(images: Array, channels: int, size: tuple[int, int], name: str) -> Tensor:
    """Bring images into the one layout that everything else uses.

    Args:
        images: uint8, as (images, height, width), (images, height, width, channels) or
            (images, channels, height, width).
        channels: Channels an image has.
        size: Height and width an image has.
        name: What to call the images in an error.

    Returns:
        A contiguous uint8 tensor (images, channels, height, width); no copy if it was one already.

    Raises:
        ValueError: If the type or the shape is not one of those above, or the shape fits two of them.

    Example:
        >>> to_image_tensor(np.zeros((2, 4, 5, 3), dtype=np.uint8), 3, (4, 5), "train images").shape
        torch.Size([2, 3, 4, 5])
    """
    tensor = _to_tensor(images, name, "uint8 pixels from 0 to 255")
    if tensor.dtype != torch.uint8:
        raise ValueError(f"The {name} are {tensor.dtype}; give uint8 pixels from 0 to 255.")
    shape = tuple(tensor.shape[1:])
    if shape == size and channels == 1:
        return tensor.unsqueeze(1).contiguous()
    channels_first = shape == (channels, *size)
    channels_last = shape == (*size, channels)
    if channels_first and channels_last and channels > 1:
        raise ValueError(
            f"The {name} of shape {tuple(tensor.shape)} may have their channels first or last; "
            "height, width and channels must not all be equal."
        )
    if channels_first:
        return tensor.contiguous()
    if channels_last:
        return tensor.permute(0, 3, 1, 2).contiguous()
    raise ValueError(
        f"The {name} have shape {tuple(tensor.shape)}; in_channels={channels} and image_size={size} ask for "
        f"(N, {channels}, {size[0]}, {size[1]}) or (N, {size[0]}, {size[1]}, {channels})"
        + (f" or (N, {size[0]}, {size[1]})." if channels == 1 else ".")
    )


def to_label_tensor(labels: Array, count: int, num_classes: int, name: str) -> Tensor:
    """Bring labels into int64 and check them.

    Args:
        labels: Whole numbers from 0 to ``num_classes - 1``, (count,).
        count: How many images they belong to.
        num_classes: How many classes there are.
        name: What to call them in an error.

    Returns:
        int64 (count,).

    Raises:
        ValueError: If they are not one whole number per image in that range.

    Example:
        >>> to_label_tensor(np.array([0, 2], dtype=np.uint8), 2, num_classes=3, name="train")
        tensor([0, 2])
    """
    tensor = _to_tensor(labels, f"{name} labels", "whole numbers from 0 on")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(
            f"The {name} labels are {tensor.dtype}; give whole numbers, as labels.astype('int64') makes them."
        )
    if tuple(tensor.shape) != (count,):
        remedy = "give one an image"
        if tuple(tensor.shape) == (count, 1):
            remedy = "give labels[:, 0]"
        elif tuple(tensor.shape) == (count, num_classes):
            remedy = "give labels.argmax(1), the class of each image"
        raise ValueError(f"The {name} labels have shape {tuple(tensor.shape)} for {count} images; {remedy}.")
    if count == 0:
        raise ValueError(f"There are no {name} images; load_arrays() has to return at least one.")
    tensor = tensor.to(torch.int64).contiguous()
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        remedy = ""
        if low > 0 and high == num_classes:
            remedy = f" Labels count from 0: give labels - {low}."
        raise ValueError(f"A {name} label is {wrong}; num_classes={num_classes} allows 0 to {num_classes - 1}.{remedy}")
    return tensor


def _to_tensor(array: Array, name: str, wanted: str) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu()
    array = np.asarray(array)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"The {name} are an array of {array.dtype}; give {wanted}.")
    # torch wants neither another machine's order of bytes, nor steps backward, nor memory that may not be written
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    is_reversed = min(array.strides, default=0) < 0
    if is_reversed or not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)
