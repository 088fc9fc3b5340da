"""By which optimizers, at which rates and along which schedules learners learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from primenet_lightning.nn.names import HEAD
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import CompositeOptimizer, LRSchedulerCallable, OptimizerCallable


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

    def make(self, learners: Mapping[str, Sequence[nn.Parameter]], lr: float | None = None) -> Optimizers:
        """Make one optimizer per learner; none for learners without parameters.

        Args:
            learners: Parameters by learner.
            lr: Learning rate of all, in place of what the optimizers begin with; None leaves that.

        Returns:
            Optimizers and schedules.

        Raises:
            ValueError: If every parameter is frozen, or if ``lr`` would level the rates of an optimizer's groups.
        """
        _refuse_all_frozen(learners)
        optimizers: dict[str, Optimizer] = {}
        schedulers: dict[str, LRScheduler] = {}
        for name, parameters in learners.items():
            if not parameters:
                continue
            make_optimizer, make_scheduler = self.optimizer, self.scheduler
            if name == HEAD:
                make_optimizer, make_scheduler = self.head_optimizer or self.optimizer, self.head_scheduler
            optimizers[name] = make_optimizer(parameters)
            if lr is not None:
                _set_rate(name, optimizers[name], lr)
            if make_scheduler is not None:
                schedulers[name] = make_scheduler(optimizers[name])
        return Optimizers(CompositeOptimizer(optimizers), schedulers)


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


def _settings(make: OptimizerCallable) -> object:
    """What an optimizer of one parameter trains with."""
    optimizer = make([nn.Parameter(torch.zeros(1))])
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


def _set_rate(name: str, optimizer: Optimizer, lr: float) -> None:
    rates = {float(group["lr"]) for group in optimizer.param_groups}
    if len(rates) > 1:
        raise ValueError(
            f"lr={lr} is for all parameters, but the optimizer of {name!r} has groups at {sorted(rates)}; leave out "
            "lr, and give the rates there"
        )
    for group in optimizer.param_groups:
        group["lr"] = lr
