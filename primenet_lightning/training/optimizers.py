"""One optimizer per capsule, stepped as one."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.training.adam import PaperAdam, lay_out

# Lightning's types of these names are the same, but live where importing them imports the command line's parser too
OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""Makes an optimizer of parameters; a class, or a path with options on the command line."""

LRSchedulerCallable = Callable[[Optimizer], LRScheduler]
"""Makes a learning rate schedule of an optimizer."""


POOLED = (PaperAdam, Adam, AdamW, SGD)
"""Optimizers whose update of a parameter depends on that parameter and its group alone."""


def _can_pool(child: Optimizer) -> bool:
    """Whether nobody would miss a call of the child's own ``step``: no hook, no schedule that counts it."""
    hooks = {*child._optimizer_step_pre_hooks.values(), *child._optimizer_step_post_hooks.values()} - {lay_out}
    return type(child) in POOLED and not hooks and "step" not in vars(child)


def _refuse_closure(name: str, child: Optimizer) -> None:
    """Refuse an optimizer that computes the loss several times per step: the engine computes it once."""
    closure = inspect.signature(child.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"the optimizer of {name!r} is {type(child).__name__}, whose step computes the loss again and again; use "
            "one that steps along a gradient, such as Adam"
        )


class CompositeOptimizer(Optimizer, metaclass=CheckedArguments):
    """Several named optimizers behind the interface of one.

    Lightning counts optimizer steps: with an optimizer per capsule, ``global_step`` would advance several times per
    batch, fp16 would unscale with factors already updated, and schedulers would be refused. This one is stepped once
    per batch and steps each child. The children stay ordinary optimizers, in ``children``, with their own algorithms
    and settings; they share their parameter groups and state with the composite, so that a change seen through one
    is seen through the other. Each group carries the child's name, which Lightning's ``LearningRateMonitor`` shows.

    Children of one class of torch's that updates each parameter by itself (`POOLED`) are stepped in one call, each
    group with its own settings, to the same numbers; those with hooks or with a step of their own, by themselves.

    Args:
        optimizers: Children by name, e.g. ``{"block0.k3": Adam(...), "head": Adam(...)}``.

    Raises:
        ValueError: If there is no child, or if two children share a parameter.
        TypeError: If a child's step needs a closure, such as that of L-BFGS.

    Example:
        >>> weight, bias = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
        >>> both = CompositeOptimizer(
        ...     {"w": torch.optim.SGD([weight], lr=1.0), "b": torch.optim.SGD([bias], lr=0.1)}
        ... )
        >>> weight.grad, bias.grad = torch.ones(2), torch.ones(2)
        >>> both.step()
        >>> weight.tolist(), [round(b, 3) for b in bias.tolist()]
        ([-1.0, -1.0], [-0.1, -0.1])
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.children = dict(optimizers)
        if not self.children:
            raise ValueError("optimizers={} is empty; give at least one named optimizer")
        for name, child in self.children.items():
            _refuse_closure(name, child)
            for index, group in enumerate(child.param_groups):
                group["name"] = name if len(child.param_groups) == 1 else f"{name}/{index}"
        super().__init__([group for child in self.children.values() for group in child.param_groups], {})
        for child in self.children.values():
            self.state.update(child.state)
        self._link()
        self._complete = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse groups that no child would step.

        Args:
            param_group: As in every torch optimizer.

        Raises:
            RuntimeError: Always, once the composite is built.
        """
        if getattr(self, "_complete", False):
            raise RuntimeError(
                "a CompositeOptimizer takes no further group, which none of its optimizers would step; add it to one "
                "of them before the composite is built"
            )
        super().add_param_group(param_group)

    def drop(self, names: Iterable[str]) -> list[int]:
        """Take children out for good, with their groups and state.

        Args:
            names: Of the children; those that are not there are passed over.

        Returns:
            Which places the groups that are left had among all groups.

        Raises:
            ValueError: If none would be left.
        """
        dropped = set(names)
        if dropped.issuperset(self.children):
            raise ValueError(f"names={sorted(dropped)} are all that this optimizer has; keep at least one")
        places: list[int] = []  # of the groups that stay, among all
        groups: list[dict[str, Any]] = []
        place = 0
        for name, child in self.children.items():
            if name not in dropped:
                places += range(place, place + len(child.param_groups))
                groups += child.param_groups
            place += len(child.param_groups)
        self.param_groups = groups
        self.children = {name: child for name, child in self.children.items() if name not in dropped}
        self._forget_all_but({parameter for group in groups for parameter in group["params"]})
        self._link()
        return places

    def _forget_all_but(self, parameters: set[Any]) -> None:
        """Drop the state of all other parameters."""
        for parameter in list(self.state):
            if parameter not in parameters:
                del self.state[parameter]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take the children along."""
        return {**super().__getstate__(), "children": self.children, "_pools": self._pools, "_complete": True}

    def _link(self) -> None:
        """Make the children share the composite's groups and state, also after these were replaced by a load."""
        start = 0
        for child in self.children.values():
            stop = start + len(child.param_groups)
            child.param_groups, child.state = self.param_groups[start:stop], self.state
            start = stop
        # a copy shares the state; its groups are gathered at each step, since a hook or schedule may come at any time
        self._pools = {type(child): copy.copy(child) for child in self.children.values() if type(child) in POOLED}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every child once.

        Args:
            closure: Computes the loss again, as in every torch optimizer; called once for all children.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self._to_step():
            optimizer.step()
        return loss

    def _to_step(self) -> list[Optimizer]:
        """The children, those that can be pooled behind one optimizer per class."""
        steps: list[Optimizer] = []
        pooled: dict[type[Optimizer], list[dict[str, Any]]] = {}
        for child in self.children.values():
            if _can_pool(child):
                pooled.setdefault(type(child), []).extend(child.param_groups)
            else:
                steps.append(child)
        for kind, groups in pooled.items():
            self._pools[kind].param_groups = groups
            steps.append(self._pools[kind])
        return steps

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state, and hand them to the children."""
        super().load_state_dict(state_dict)
        self._link()


class CompositeScheduler(LRScheduler):
    """The children's own schedulers behind the interface of one, attached to the composite.

    Lightning refuses a scheduler whose optimizer it was not given. This one shows it the composite and steps, of each
    child, the child's own scheduler.

    Args:
        optimizer: The composite.
        schedulers: Schedulers by child name; a child without one keeps its learning rate.

    Raises:
        ValueError: If a name is no child of the composite.
        TypeError: If a scheduler waits for a metric (``ReduceLROnPlateau``), which nobody would hand to it.
    """

    def __init__(self, optimizer: CompositeOptimizer, schedulers: Mapping[str, LRScheduler]) -> None:
        # not super().__init__: it would patch the composite's step and set learning rates of its own
        unknown = schedulers.keys() - optimizer.children.keys()
        if unknown:
            raise ValueError(f"schedulers for {sorted(unknown)}, but the optimizers are {list(optimizer.children)}")
        for name, scheduler in schedulers.items():
            if isinstance(scheduler, ReduceLROnPlateau):
                raise TypeError(
                    f"the scheduler of {name} is ReduceLROnPlateau, which waits for a metric; use a scheduler that "
                    "counts steps, such as CosineAnnealingLR or OneCycleLR"
                )
        self.optimizer = optimizer
        self.schedulers = dict(schedulers)

    def drop(self, names: Iterable[str]) -> None:
        """Take the schedulers of some children out, as `CompositeOptimizer.drop` does with the children.

        Args:
            names: Of the children; those that have no scheduler are passed over.
        """
        for name in names:
            self.schedulers.pop(name, None)

    def step(self, epoch: int | None = None) -> None:
        """Step every child's scheduler once."""
        for scheduler in self.schedulers.values():
            scheduler.step()

    def get_last_lr(self) -> list[float]:  # type: ignore[override]
        """Learning rates of all groups, in the composite's order."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """States by child name."""
        return {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load states by child name."""
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state_dict[name])
