"""Learning rate schedules by name, over a known number of optimizer steps."""

from typing import Literal, get_args

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

Schedule = Literal["cosine", "step", "one_cycle"]
"""Names that `schedule` takes."""

STEP_FACTOR = 0.25
STEP_PERCENTS = (50, 75, 89, 94)
"""Where ``"step"`` lowers the rate, in percent of all steps (Nøkland and Eidnes, 2019)."""

ONE_CYCLE_RISE = 0.25
"""Share of the steps in which ``"one_cycle"`` rises."""

ONE_CYCLE_LEAST = 5
"""Fewest steps of ``"one_cycle"``: with fewer, a quarter of them is no step up."""


def schedule(name: Schedule, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    r"""Build a schedule; its ``step`` is to be called once after each optimizer step.

    With the optimizer's rate :math:`r`, each group's own, the rate of step :math:`t = 0, \dots, T - 1` is

    - ``"cosine"``: :math:`r (1 + \cos(\pi t / T)) / 2` (Loshchilov and Hutter, 2017, without restarts);
    - ``"step"``: :math:`r / 4^k` after :math:`k` of the points at 50, 75, 89 and 94 % of the steps have been reached
      (Nøkland and Eidnes, 2019);
    - ``"one_cycle"``: from :math:`r / 25` up to :math:`r` over the first quarter, then down to :math:`r / 250000` at
      the last step, both along half a cosine (Smith and Topin, 2019). Adam's betas stay as they are.

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
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(optimizer, rates, total_steps, pct_start=ONE_CYCLE_RISE, cycle_momentum=False)


def steps_of_fit(trainer: Trainer, what: str, window: int = 1, start: int = 0) -> int:
    """Tell how many optimizer steps a fit has, which a schedule or phases are laid out over.

    Args:
        trainer: The Trainer, in a fit.
        what: Is laid out, for the sentence.
        window: Batches an optimizer step.
        start: Optimizer steps that this Trainer had done before, in a fit that is over.

    Returns:
        Optimizer steps of the whole fit, without those.

    Raises:
        ValueError: If the fit has no end.
    """
    steps = trainer.estimated_stepping_batches
    # it sets the data up before a resumed run's place in them is restored, which Lightning would then leave out
    trainer.fit_loop._combined_loader = None
    if not 0 < steps < float("inf"):
        raise ValueError(
            f"{what} needs to know its end, and this fit has none (max_epochs={trainer.max_epochs}, "
            f"max_steps={trainer.max_steps}); set either"
        )
    epochs = trainer.max_epochs or 0
    if window > 1 and epochs > 0:
        # counted here, since the Trainer knows nothing of windows
        windows = -(-int(trainer.num_training_batches) // window) * epochs
        steps = min(windows, trainer.max_steps) if trainer.max_steps > 0 else windows
    # a fit with nothing left to do ends before its first step
    return int(steps) - start if steps > start else int(steps)
