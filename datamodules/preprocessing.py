"""From pictures of uint8 to the network's input, whole batches at a time on their device."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.datamodules.normalization import Normalize


class Preprocess(metaclass=CheckedArguments):
    """Resizes pictures, where the network wants another size than they have, and normalizes them.

    Args:
        normalize: From pixels to the network's input.
        picture_size: Height and width that pictures have.
        image_size: Height and width that the network takes.

    Example:
        >>> import torch
        >>> preprocess = Preprocess(Normalize((0.5,), (0.5,)), picture_size=(8, 8), image_size=(16, 16))
        >>> preprocess(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(self, normalize: Normalize, picture_size: tuple[int, int], image_size: tuple[int, int]) -> None:
        self.normalize = normalize
        self.picture_size = as_size("picture_size", picture_size)
        self.image_size = as_size("image_size", image_size)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> "Preprocess":
        """Do as a data module did.

        Args:
            description: From `ImageDataModule.description`.

        Returns:
            The same preprocessing.
        """
        height, width = description["image_size"]
        picture_height, picture_width = description.get("picture_size") or (height, width)
        normalize = Normalize(description["mean"], description["std"])
        return cls(normalize, (picture_height, picture_width), (height, width))

    def resize(self, images: Tensor) -> Tensor:
        """Bring a batch to the size that the network takes.

        Args:
            images: uint8 (batch, channels, height, width).

        Returns:
            uint8 (batch, channels, height, width), of ``image_size``; the same tensor if it has it.

        Raises:
            ValueError: If the images have neither size.
        """
        size = tuple(images.shape[-2:])
        if size == self.image_size or self.picture_size == self.image_size:
            return images
        if size != self.picture_size:
            raise ValueError(
                f"the images have {size[0]} by {size[1]} pixels; give pictures of {self.picture_size}, which are "
                f"resized to {self.image_size}, or of that"
            )
        return resized(images, self.image_size)

    def __call__(self, images: Tensor) -> Tensor:
        """Resize and normalize a batch.

        Args:
            images: Pixels from 0 to 255, (batch, channels, height, width); left as they are.

        Returns:
            float32 (batch, channels, height, width), on the same device.
        """
        return self.normalize(self.resize(images))


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a batch on its device: bilinear, with antialiasing.

    Args:
        images: uint8 (batch, channels, height, width).
        size: Height and width to have.

    Returns:
        uint8 (batch, channels, height, width).

    Example:
        >>> import torch
        >>> resized(torch.tensor([[0, 8], [0, 8]], dtype=torch.uint8).view(1, 1, 2, 2), (1, 1)).item()
        4
    """
    from torchvision.transforms.v2.functional import resize  # half a second, for those who resize

    if size == (1, 1):  # torch's kernel for uint8 takes the memory's order of one pixel for another (2.15)
        return resize(images.float(), list(size), antialias=True).round().to(images.dtype)  # type: ignore[no-any-return]
    pixels: Tensor = resize(images, list(size), antialias=True)
    return pixels.contiguous()


def as_size(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    """Read a size that a user gave.

    Args:
        name: Of the argument.
        size: Height and width in pixels; one number for a square.

    Returns:
        Height and width.

    Raises:
        ValueError: If it is not one or two positive whole numbers.

    Example:
        >>> as_size("resize", 224)
        (224, 224)
    """
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"{name}={size} is no size; give height and width, or one whole number for a square")
    at_least(1, "pixel", **{name: min(sides)})
    return (sides[0], sides[1])
