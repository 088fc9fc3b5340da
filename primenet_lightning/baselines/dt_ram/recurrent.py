"""The recurrent network that takes glimpses, says where to look next, and answers; and the policy that stops it."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import whole_number
from primenet_lightning.baselines.dt_ram.glimpses import GlimpseSensor
from primenet_lightning.nn.layers import at_least_float32

FirstLocation = Literal["locator", "centre"]
"""Where the first glimpse is taken: where the locator looks that has seen nothing, or at the centre."""

LARGEST_LOGIT = 10.0
"""Of stopping, up or down."""

FIRST_STOP_LOGIT = -1.5
"""What a new policy has: stopping with a probability near 0.2. With a short fit one that never stops stays there."""


class RecurrentAttention(nn.Module):
    """RAM for small images (the authors' sizes for MNIST).

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        patch: Pixels of a side of a glimpse.
        depth: Patches of a glimpse.
        glimpse_width: Features of what was seen, and of where.
        width: Of the recurrent core.
        locator_width: Of the locator's hidden layer, which ends in tanh; None is a linear locator, clamped.
        first_location: Where the first glimpse is taken.

    Raises:
        ValueError: If a patch is larger than the images, a width is below 1, or ``first_location`` is unknown.

    Example:
        >>> ram = RecurrentAttention((1, 28, 28), 10)
        >>> sum(parameter.numel() for parameter in ram.parameters())  # and one more, of the baseline
        209420
        >>> ram.step_cost, ram.first_step_cost, ram.classifier_cost
        (205568, 140032, 2560)
    """

    reach: Tensor

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        num_classes: int,
        patch: int = 8,
        depth: int = 1,
        glimpse_width: int = 128,
        width: int = 256,
        locator_width: int | None = None,
        first_location: FirstLocation = "locator",
    ) -> None:
        super().__init__()
        whole_number(1, glimpse_width=glimpse_width)
        whole_number(1, width=width)
        channels, height, image_width = in_shape
        if patch > min(height, image_width):
            raise ValueError(f"patch={patch} is larger than the images, which are {height}x{image_width} pixels")
        if first_location not in get_args(FirstLocation):
            raise ValueError(f"first_location={first_location!r} is unknown; use 'locator' or 'centre'")
        self.width = width
        self.first_location = first_location
        # how far a glimpse may be from the centre: a pixel less than half the image
        self.register_buffer("reach", torch.tensor([(height - 2) / height, (image_width - 2) / image_width]), False)
        self.sensor = GlimpseSensor(patch, depth)
        self.what = nn.Linear(depth * channels * patch**2, glimpse_width)
        self.where = nn.Linear(2, glimpse_width)
        self.join = nn.Sequential(nn.Linear(2 * glimpse_width, width), nn.ReLU(), nn.Linear(width, width))
        self.feedback = nn.Linear(width, width)
        self.start = nn.Parameter(torch.zeros(width))  # in the place of the feedback at the first step
        self.locator = _locator(width, locator_width)
        self.classifier = nn.Linear(width, num_classes)

    # -- a step --------------------------------------------------------------------------------------------------------

    def look(self, x: Tensor, location: Tensor, hidden: Tensor | None) -> Tensor:
        """Take a glimpse.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            location: As the sensor takes it, ``(batch, 2)``.
            hidden: Of the step before, ``(batch, width)``; None at the first.

        Returns:
            What the core makes of it, ``(batch, width)``.
        """
        seen = self.what(self.sensor(x, location)).relu()
        place = self.where(location).relu()
        glimpse = self.join(torch.cat([seen, place], dim=1))
        fed_back = self.start if hidden is None else self.feedback(hidden)
        hidden_now: Tensor = (glimpse + fed_back).relu()
        return hidden_now

    def aim(self, x: Tensor, hidden: Tensor | None) -> Tensor | None:
        """Tell where to look next, on average. The core gets no gradient from it.

        Args:
            x: Images, ``(batch, channels, height, width)``, which are not looked at.
            hidden: Of the step before, ``(batch, width)``; None before the first.

        Returns:
            Means, ``(batch, 2)``, within -1 and 1; None where the first glimpse is at the centre.
        """
        if hidden is None and self.first_location == "centre":
            return None
        if hidden is None:
            hidden = x.new_zeros(len(x), self.width)
        means = at_least_float32(self.locator(hidden.detach()))
        return means.clamp(-1, 1) if isinstance(self.locator, nn.Linear) else means.tanh()

    def place(self, x: Tensor, sample: Tensor | None) -> Tensor:
        """Bring a sample of a location to what the sensor takes.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            sample: ``(batch, 2)``; None is the centre.

        Returns:
            ``(batch, 2)``, without gradient.
        """
        if sample is None:
            return x.new_zeros(len(x), 2)
        return (sample.detach().clamp(-1, 1) * self.reach).to(x.dtype)

    def look_on_average(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Take a glimpse where the locator looks on average, as at inference.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            hidden: Of the step before, ``(batch, width)``; None at the first.

        Returns:
            What the core makes of it, ``(batch, width)``, and the location, ``(batch, 2)``.
        """
        location = self.place(x, self.aim(x, hidden))
        return self.look(x, location, hidden), location

    # -- cost ----------------------------------------------------------------------------------------------------------

    @property
    def _locator_cost(self) -> int:
        return sum(part.weight.numel() for part in self.locator.modules() if isinstance(part, nn.Linear))

    @property
    def step_cost(self) -> int:
        """Multiply-adds of a step: where to look, the glimpse, and the core."""
        layers: list[nn.Module] = [self.what, self.where, self.join, self.feedback]
        count = self._locator_cost
        for layer in layers:
            count += sum(part.weight.numel() for part in layer.modules() if isinstance(part, nn.Linear))
        return count

    @property
    def first_step_cost(self) -> int:
        """Of the first step, which has no feedback, and at the centre no locator."""
        cost = self.step_cost - self.feedback.weight.numel()
        return cost - self._locator_cost if self.first_location == "centre" else cost

    @property
    def classifier_cost(self) -> int:
        """Multiply-adds of an answer."""
        return self.classifier.weight.numel()


def _locator(width: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(width, 2)
    whole_number(1, locator_width=hidden)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))


class StopPolicy(nn.Module):
    """Tells from what has been seen whether it is enough.

    Args:
        width: Of the recurrent core.

    Example:
        >>> policy = StopPolicy(256)
        >>> sum(parameter.numel() for parameter in policy.parameters()), policy.multiply_adds
        (66049, 65792)
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.decision = nn.Linear(width, 1)
        nn.init.constant_(self.decision.bias, FIRST_STOP_LOGIT)

    @property
    def multiply_adds(self) -> int:
        """Of a decision."""
        return self.hidden.weight.numel() + self.decision.weight.numel()

    def forward(self, hidden: Tensor) -> Tensor:
        """Decide. What has been seen gets no gradient.

        Args:
            hidden: Of the core, ``(batch, width)``, or ``(batch, steps, width)``.

        Returns:
            Logits of stopping, ``(batch,)`` or ``(batch, steps)``, within -10 and 10.
        """
        logits = self.decision(self.hidden(hidden.detach()).relu())
        return at_least_float32(logits[..., 0]).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
