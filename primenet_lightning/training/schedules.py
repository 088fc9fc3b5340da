"""Learning rate schedules by name, over a known number of optimizer steps."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

Schedule = Literal["cosine", "step", "one_cycle", "triangular"]
"""Names that `schedule` takes."""

STEP_FACTOR = 0.25
STEP_PERCENTS = (50, 75, 89, 94)
"""Where ``"step"`` lowers the rate, in percent of all steps (Nøkland and Eidnes, 2019)."""

ONE_CYCLE_RISE = 0.25
"""Share of the steps in which ``"one_cycle"`` rises."""

ONE_CYCLE_LEAST = 5
"""Fewest steps of ``"one_cycle"``: with fewer, a quarter of them is no step up."""


@dataclass
class Triangle:
    """Share of the rate at each step: up along a line, then down along one.

    An object and no function, so that a scheduler's state has its numbers.

    Args:
        total_steps: Over which it is laid out.
        start: Share at step 0.
        peak: Share of the steps that come before the whole rate.
        end: Share that is reached after the last step.

    Example:
        >>> triangle = Triangle(total_steps=100)
        >>> [round(triangle(step), 3) for step in (0, 23, 100)]
        [0.2, 1.0, 0.07]
    """

    total_steps: int
    start: float = 0.2
    peak: float = 0.23
    end: float = 0.07

    def __call__(self, step: int) -> float:
        """Give the share of one step."""
        done = step / self.total_steps
        if done < self.peak:
            return self.start + (1 - self.start) * done / self.peak
        return self.end + (1 - self.end) * (1 - done) / (1 - self.peak)


def schedule(name: Schedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    r"""Build a schedule; its ``step`` is to be called once after each optimizer step.

    With the optimizer's rate :math:`r`, each group's own, the rate of step :math:`t = 0, \dots, T - 1` is

    - ``"cosine"``: :math:`r (1 + \cos(\pi t / T)) / 2` (Loshchilov and Hutter, 2017, without restarts);
    - ``"step"``: :math:`r / 4^k` after :math:`k` of the points at 50, 75, 89 and 94 % of the steps have been reached
      (Nøkland and Eidnes, 2019);
    - ``"one_cycle"``: from :math:`r / 25` up to :math:`r` over the first quarter, then down to :math:`r / 250000` at
      the last step, both along half a cosine (Smith and Topin, 2019). Adam's betas stay as they are;
    - ``"triangular"``: from :math:`0.2 r` along a line up to :math:`r` at 23 % of the steps, then along a line towards
      :math:`0.07 r` at :math:`t = T` (Jordan, 2024, airbench).

    Of a `CompositeOptimizer`, schedule the composite: its children then still are stepped in one call.

    Args:
        name: Of the schedule.
        optimizer: Whose rates are scheduled.
        total_steps: Optimizer steps of the whole training, T. A state that is loaded brings its own along.

    Returns:
        One of torch's schedulers; it has set the rates of step 0.

    Raises:
        ValueError: If the name is unknown, or if there are too few steps.

    Example:
        >>> import torch
        >>> from torch import nn, optim
        >>> optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
        >>> halves = schedule("cosine", optimizer, total_steps=2)
        >>> for _ in range(2):
        ...     print(round(optimizer.param_groups[0]["lr"], 6))
        ...     optimizer.step()
        ...     halves.step()
        0.4
        0.2
    """
    if name not in get_args(Schedule):
        raise ValueError(f"schedule={name!r} is unknown; use one of {get_args(Schedule)}")
    least = ONE_CYCLE_LEAST if name == "one_cycle" else 1
    if total_steps < least:
        raise ValueError(
            f"total_steps={total_steps} is too few for schedule={name!r}; train for at least {least} optimizer "
            f"step{'s' if least > 1 else ', and not without an end'}"
        )
    if name == "cosine":
        return CosineAnnealingLR(optimizer, total_steps)
    if name == "step":
        milestones = [-(-percent * total_steps // 100) for percent in STEP_PERCENTS]
        return MultiStepLR(optimizer, milestones, STEP_FACTOR)
    if name == "triangular":
        return LambdaLR(optimizer, Triangle(total_steps))
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, total_steps, pct_start=ONE_CYCLE_RISE, cycle_momentum=False)
