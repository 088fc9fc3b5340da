"""Several views of each test image, whose logits are averaged."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from primenet_lightning.arguments import whole_number
from primenet_lightning.nn.layers import at_least_float32


@dataclass(frozen=True)
class Views:
    """Which views of an image are averaged, beside the image itself.

    As in airbench (Jordan, 2024): of the image and its mirror image half each; with shifts, half of that, and half of
    the same of two images shifted along the diagonal, one each way, their edges reflected.

    Args:
        flips: Whether the mirror image, left to right, is one.
        shifts: Pixels to shift by; 0 for no shifts.

    Raises:
        ValueError: If the shifts are no whole number, or below 0.

    Example:
        >>> Views(flips=True).name, Views(flips=True, shifts=1).name, Views().name
        ('flips', 'flips_shifts', '')
    """

    flips: bool = False
    shifts: int = 0

    def __post_init__(self) -> None:
        whole_number(0, test_shifts=self.shifts)

    @property
    def name(self) -> str:
        """What metrics of the average end with; empty where there is nothing to average."""
        names: list[str] = []
        if self.flips:
            names.append("flips")
        if self.shifts:
            names.append("shifts")
        return "_".join(names)

    def refuse_images(self, in_shape: tuple[int, int, int]) -> None:
        """Refuse shifts that images are too small for.

        Args:
            in_shape: Channels, height and width of the images.

        Raises:
            ValueError: If a shift is as large as a side.
        """
        side = min(in_shape[1:])
        if self.shifts >= side:
            raise ValueError(
                f"test_shifts={self.shifts} moves images of {in_shape[1]} x {in_shape[2]} pixels out of sight; give "
                "a few pixels, such as 1, or 0 for none"
            )

    def averaged(self, images: Tensor, logits: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """Average the logits of all views.

        Args:
            images: Normalised, ``(batch, channels, height, width)``.
            logits: Of the images themselves, ``(batch, classes)``.
            predict: Gives the logits, ``(batch, classes)``, of images.

        Returns:
            ``(batch, classes)``, in at least float32.
        """
        centre = self._with_mirror(images, logits, predict)
        if not self.shifts:
            return centre
        height, width = images.shape[2:]
        far = 2 * self.shifts
        padded = F.pad(images, [self.shifts] * 4, mode="reflect")
        down = padded[:, :, :height, :width]
        up = padded[:, :, far : far + height, far : far + width]
        shifted = (self._with_mirror(down, predict(down), predict) + self._with_mirror(up, predict(up), predict)) / 2
        return (centre + shifted) / 2

    def _with_mirror(self, images: Tensor, logits: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
        logits = at_least_float32(logits)
        if not self.flips:
            return logits
        return (logits + at_least_float32(predict(images.flip(-1)))) / 2
