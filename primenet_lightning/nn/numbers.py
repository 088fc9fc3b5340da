"""Losses as numbers: one process's share of a batch, and the way from the device to the host."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor


class NonFiniteError(RuntimeError):
    """A loss, or a parameter, is NaN or infinite.

    For a loss it is raised before the update, so that the parameters are those of the step before.

    Args:
        name: Whose, e.g. ``"block0.k3"``.
        value: The loss; None where it is a parameter.
        step: The step, where it is known.
        learning_rate: Of that learner, where it is known.
    """

    def __init__(
        self, name: str, value: float | None = None, step: int | None = None, learning_rate: float | None = None
    ) -> None:
        what = f"a parameter of {name} is not finite" if value is None else f"the loss of {name} is {value}"
        at = "" if step is None else f" at step {step}"
        rate = "" if learning_rate is None else f", learning rate {learning_rate:g}"
        super().__init__(
            f"{what}{at}{rate}: lower its learning rate, clip its gradients (gradient_clip_val), or look for NaN in "
            "the images of this batch"
        )
        self.name = name
        self.value = value


class Share(Protocol):
    """What one process has of the global batch."""

    @property
    def weight(self) -> float:
        """Images here over images everywhere."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Average means over this share.

        Args:
            values: Means over the images here, ``(values,)``.

        Returns:
            Means over the global batch, ``(values,)``, equal on every process.
        """
        ...

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Tell which flags any process has raised.

        Args:
            flags: Those of this process, as they are now.

        Returns:
            Those of all processes: where there are several, as they were when the batch was shared out.
        """
        ...

    def draw(self, count: int, numbers: int, device: torch.device) -> Tensor:
        """Draw random numbers for the images here, the same ones however many processes share the batch.

        Args:
            count: Images here.
            numbers: How many numbers an image.
            device: Whose generator, the default one, they come from.

        Returns:
            Uniform in [0, 1), float32, ``(count, numbers)``.
        """
        ...


class _Whole:
    """The whole batch, which nobody else has a part of."""

    weight = 1.0

    def mean(self, values: Tensor) -> Tensor:
        return values

    def any(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags)

    def draw(self, count: int, numbers: int, device: torch.device) -> Tensor:
        return torch.rand(count, numbers, dtype=torch.float32, device=device)


WHOLE: Share = _Whole()
"""The share of a process that has the batch to itself: its means are the batch's."""


def on_host(losses: Mapping[str, Tensor], share: Share = WHOLE) -> dict[str, float]:
    """Take losses to the host, all in one transfer, and refuse what is no number.

    Args:
        losses: Scalars by name.
        share: Of this process; the losses are averaged over the global batch first.

    Returns:
        Numbers by the same names.

    Raises:
        NonFiniteError: For the first that is NaN or infinite.

    Example:
        >>> on_host({"k3": torch.tensor(0.5), "k5": torch.tensor(0.25)})
        {'k3': 0.5, 'k5': 0.25}
    """
    stacked = torch.stack([loss.detach() for loss in losses.values()])
    numbers = share.mean(stacked).tolist()
    values = dict(zip(losses, numbers, strict=True))
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(name, value)
    return values
