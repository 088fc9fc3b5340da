"""By which optimizers, at which rates and along which schedules learners learn."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from primenet_lightning.arguments import first_line
from primenet_lightning.nn.names import HEAD
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.norm_biases import learn_faster
from primenet_lightning.training.optimizers import CompositeOptimizer, LRSchedulerCallable, OptimizerCallable

Made = TypeVar("Made")


class Optimizers(NamedTuple):
    """What a recipe makes.

    Attributes:
        composite: One optimizer per learner, behind the interface of one.
        schedulers: Schedules of single optimizers, by learner; empty without any.
    """

    composite: CompositeOptimizer
    schedulers: dict[str, LRScheduler]


@dataclass(frozen=True)
class OptimizerRecipe:
    """Makes the optimizers of learners, each from the learner's parameters.

    Args:
        optimizer: Makes that of one learner.
        head_optimizer: Makes the head's; None takes ``optimizer``.
        scheduler: Makes the learning rate schedule of one learner's optimizer; None for none.
        head_scheduler: Makes the head's; None for none.
        bias_lr_factor: At which multiple of their optimizer's rate the biases of normalization layers learn; their
            weight decay is divided by it.

    Raises:
        ValueError: If that factor is not positive.

    Example:
        >>> from torch import nn, optim
        >>> parts = {"layer1": list(nn.Linear(2, 2).parameters()), "head": list(nn.Linear(2, 1).parameters())}
        >>> optimizers = OptimizerRecipe(optim.Adam).make(parts, lr=0.5)
        >>> [group["lr"] for group in optimizers.composite.param_groups]
        [0.5, 0.5]
    """

    optimizer: OptimizerCallable = PaperAdam
    head_optimizer: OptimizerCallable | None = None
    scheduler: LRSchedulerCallable | None = None
    head_scheduler: LRSchedulerCallable | None = None
    bias_lr_factor: float = 1

    def __post_init__(self) -> None:
        if not 0 < self.bias_lr_factor < math.inf:
            raise ValueError(
                f"bias_lr_factor={self.bias_lr_factor} is out of range; give a positive number, such as airbench's "
                "64, or 1 for the rate of all others"
            )

    def make(
        self,
        learners: Mapping[str, Sequence[nn.Parameter]],
        lr: float | None = None,
        norm_biases: Collection[nn.Parameter] = (),
    ) -> Optimizers:
        """Make one optimizer per learner; none for learners without parameters.

        Args:
            learners: Parameters by learner.
            lr: Learning rate of all, in place of what the optimizers begin with; None leaves that.
            norm_biases: Which parameters learn at ``bias_lr_factor`` times the rate.

        Returns:
            Optimizers and schedules.

        Raises:
            ValueError: If every parameter is frozen, or if ``lr`` would level the rates of an optimizer's groups, or if
                ``bias_lr_factor`` has nothing to act on, or is undone by a scheduler.
        """
        _refuse_all_frozen(learners)
        if self.bias_lr_factor != 1:
            _refuse_no_biases(self.bias_lr_factor, norm_biases)
        optimizers: dict[str, Optimizer] = {}
        schedulers: dict[str, LRScheduler] = {}
        for name, parameters in learners.items():
            if not parameters:
                continue
            make_optimizer, make_scheduler = self.optimizer, self.scheduler
            if name == HEAD:
                make_optimizer, make_scheduler = self.head_optimizer or self.optimizer, self.head_scheduler
            optimizers[name] = _made("optimizer", name, make_optimizer, parameters)
            if lr is not None:
                _set_rate(name, optimizers[name], lr)
            if self.bias_lr_factor != 1:
                learn_faster(optimizers[name], norm_biases, self.bias_lr_factor)
            if make_scheduler is not None:
                schedulers[name] = self._scheduled(name, optimizers[name], make_scheduler)
        return Optimizers(CompositeOptimizer(optimizers), schedulers)

    def _scheduled(self, name: str, optimizer: Optimizer, make_scheduler: LRSchedulerCallable) -> LRScheduler:
        """Make a schedule, under which the biases of normalization layers keep their multiple of the rate."""
        before = _proportions(optimizer)
        scheduler = _made("scheduler", name, make_scheduler, optimizer)
        after = _proportions(optimizer)
        if self.bias_lr_factor != 1 and after and before and not np.allclose(before, after, rtol=1e-6):
            raise ValueError(
                f"the {type(scheduler).__name__} of {name!r} sets the rates of groups itself, which undoes "
                f"bias_lr_factor={self.bias_lr_factor}; use schedule, such as schedule='one_cycle', or a scheduler "
                "that multiplies rates"
            )
        return scheduler


def refuse_two_optimizers(optimizer: OptimizerCallable, **others: OptimizerCallable) -> None:
    """Refuse an optimizer for all learners beside another for some.

    Args:
        optimizer: For all.
        **others: For some, by the name of their argument; the default, `PaperAdam`, is nobody's wish.

    Raises:
        ValueError: If one of the others is not that default.
    """
    default = _settings(PaperAdam)
    for name, other in others.items():
        if other is not PaperAdam and _settings(other) != default:
            raise ValueError(
                f"optimizer={_name(optimizer)} is for all learners, but {name}={_name(other)} is given too; leave out "
                "one of them"
            )


def _made(argument: str, learner: str, make: Callable[[Any], Made], given: Any) -> Made:
    """Make an optimizer or a schedule, which may refuse its options in the words of torch."""
    try:
        return make(given)
    except (TypeError, ValueError, NotImplementedError) as error:  # the last of torch's base class
        raise ValueError(
            f"the {argument} of {learner!r} cannot be made ({first_line(error)}); give it other options"
        ) from error


def _settings(make: OptimizerCallable) -> object:
    """What an optimizer of one parameter trains with."""
    optimizer = _made("optimizer", "all learners", make, [nn.Parameter(torch.zeros(1))])
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return type(optimizer), groups


def _name(make: OptimizerCallable) -> str:
    return getattr(make, "__name__", None) or type(make([nn.Parameter(torch.zeros(1))])).__name__


def _refuse_all_frozen(learners: Mapping[str, Sequence[nn.Parameter]]) -> None:
    for parameters in learners.values():
        for parameter in parameters:
            if parameter.requires_grad:
                return
    raise ValueError(
        "every parameter is frozen (requires_grad=False), so that nothing could be learned; call model.unfreeze(), or "
        "model.requires_grad_(True), before the fit"
    )


def _refuse_no_biases(factor: float, norm_biases: Collection[nn.Parameter]) -> None:
    if not norm_biases:
        raise ValueError(
            f"bias_lr_factor={factor} is for biases of normalization layers, and the network has none that learns; "
            "leave it out"
        )


def _proportions(optimizer: Optimizer) -> list[float]:
    """Rates over that of the first group; none where it stands still, as at the start of a warm-up."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return [rate / rates[0] for rate in rates] if rates[0] else []


def _set_rate(name: str, optimizer: Optimizer, lr: float) -> None:
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    if len(rates) > 1:
        raise ValueError(
            f"lr={lr} is for all parameters, but the optimizer of {name!r} has groups at {sorted(rates)}; leave out "
            "lr, and give the rates there"
        )
    for group in optimizer.param_groups:
        group["lr"] = lr
