"""What the optimizers of a run train with: kept in its checkpoints, compared and followed when it is resumed."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import ChainedScheduler, LRScheduler, SequentialLR

from primenet_lightning.training.optimizers import CompositeOptimizer, CompositeScheduler

RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""Entries of a parameter group that are learning rates: a schedule writes the others beside ``"lr"``."""

NOT_IN_PROPORTION = (ChainedScheduler, SequentialLR)
"""Schedules that keep learning rates where nobody else can change them."""

Group = Mapping[str, Any]
"""A parameter group without its parameters and its name."""

Settings = dict[str, dict[str, Any]]
"""By learner the ``"class"`` of its optimizer, the settings of its ``"groups"``, the class of its ``"scheduler"``."""


def settings_of(composite: CompositeOptimizer, schedulers: Mapping[str, LRScheduler]) -> Settings:
    """Describe optimizers as they were built.

    Args:
        composite: All of them.
        schedulers: Of single learners.

    Returns:
        Plain values, which a checkpoint can hold.

    Example:
        >>> from torch import nn, optim
        >>> sgd = optim.SGD([nn.Parameter(nn.Linear(1, 1).weight)], lr=0.5)
        >>> head = settings_of(CompositeOptimizer({"head": sgd}), {})["head"]
        >>> head["class"], head["groups"][0]["lr"], head["scheduler"]
        ('torch.optim.sgd.SGD', 0.5, None)
    """
    settings: Settings = {}
    for name, child in composite.children.items():
        settings[name] = {
            "class": _path_of(child),
            "groups": [_as_built(group) for group in child.param_groups],
            "scheduler": _path_of(schedulers[name]) if name in schedulers else None,
        }
    return settings


def _path_of(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _as_built(group: Group) -> dict[str, Any]:
    """The settings of a group that a checkpoint can hold, with the rate that it began with."""
    settings: dict[str, Any] = {}
    for key, value in group.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if key not in ("params", "name", *RATES) and isinstance(value, str | int | float | bool | tuple | None):
            settings[key] = value
    # a one-cycle schedule begins far below the rate that was asked for
    settings["lr"] = float(group.get("max_lr", group.get("initial_lr", group["lr"])))
    return settings


def settings_in(checkpoint: Mapping[str, Any]) -> Settings:
    """Read from a checkpoint what its run's optimizers were built with.

    Args:
        checkpoint: Of a fit.

    Returns:
        As `settings_of`. Version 0.1 did not keep them: there they are worked out from the state of the optimizer,
        and no class is known.
    """
    if "optimizer_settings" in checkpoint:
        kept: Settings = checkpoint["optimizer_settings"]
        return kept
    settings: Settings = {}
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            learner = str(group.get("name", "")).partition("/")[0]
            settings.setdefault(learner, {"class": None, "groups": []})["groups"].append(_as_built(group))
    return settings


# -- refused -----------------------------------------------------------------------------------------------------------


def refuse_other_optimizers(saved: Settings, present: Settings) -> None:
    """Refuse to go on with the state of other optimizers, or of other schedules.

    Args:
        saved: Settings of the run that is resumed.
        present: Settings of the optimizers at hand.

    Raises:
        ValueError: If the optimizer of a learner is of another class, or has other groups, or another schedule.
    """
    for name, now in present.items():
        before = saved.get(name)
        if before is None:
            continue
        if _is_other_kind(before, now):
            _refuse(f"the optimizer of {name!r}", before["class"] or "of another class", now["class"])
        if len(before["groups"]) != len(now["groups"]):
            _refuse(f"the number of parameter groups of {name!r}", len(before["groups"]), len(now["groups"]))
        if "scheduler" in before and before["scheduler"] != now["scheduler"]:
            _refuse(f"the schedule of {name!r}", before["scheduler"], now["scheduler"])


def refuse_other_schedule(before: str | None, now: str | None) -> None:
    """Refuse to go on with another schedule by name.

    Args:
        before: Of the run that is resumed.
        now: Of the model at hand.

    Raises:
        ValueError: If they differ.
    """
    if before != now:
        _refuse("schedule", repr(before), repr(now))


def _refuse(what: str, before: Any, now: Any) -> None:
    was, is_now = (str(value).rpartition(".")[2] for value in (before, now))
    raise ValueError(
        f"{what} was {was} in the run that is resumed, and is {is_now} now, which cannot go on with what was saved; "
        "resume with the same, or start a new run"
    )


def _is_other_kind(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if before["class"] is not None:
        return bool(before["class"] != now["class"])
    # by their settings; switches come and go with the version of torch
    names: list[set[str]] = []
    for settings in (before, now):
        group = settings["groups"][0]
        names.append({key for key in group if not isinstance(group[key], bool | None)})
    return names[0] != names[1]


# -- followed ----------------------------------------------------------------------------------------------------------


def follow_changes(
    saved: Settings, present: Settings, composite: CompositeOptimizer, scheduler: LRScheduler | None
) -> list[str]:
    """Apply to resumed optimizers what the user has changed since; what he has not changed goes on as saved.

    A learning rate is changed in proportion, wherever in its schedule it stands.

    Args:
        saved: Settings of the run that is resumed.
        present: Settings of the optimizers as they were built now.
        composite: The optimizers, whose state has been restored.
        scheduler: Of the composite, restored too; None without one.

    Returns:
        A sentence for each change.

    Raises:
        ValueError: If a learning rate was changed whose schedule does not allow it.
    """
    changes: list[str] = []
    for name, child in composite.children.items():
        if name not in saved:
            continue
        for place, group in enumerate(child.param_groups):
            before, now = saved[name]["groups"][place], present[name]["groups"][place]
            for key, value in now.items():
                if key not in before or before[key] == value:
                    continue
                changes.append(f"{key} of {group['name']} is {value} from now on; it was {before[key]}")
                if key != "lr":
                    group[key] = value
                    continue
                factor = value / before["lr"]
                _scale_group(group, factor)
                _scale_schedule(scheduler, name, group, factor)
    return changes


def _scale_group(group: dict[str, Any], factor: float) -> None:
    for rate in RATES:
        if rate in group:
            group[rate] = group[rate] * factor


def _scale_schedule(scheduler: LRScheduler | None, learner: str, group: Mapping[str, Any], factor: float) -> None:
    """Let the schedule of a group go on in proportion."""
    if isinstance(scheduler, CompositeScheduler):
        scheduler = scheduler.schedulers.get(learner)
    if scheduler is None:
        return
    if isinstance(scheduler, NOT_IN_PROPORTION):
        raise ValueError(
            f"lr of {learner!r} was changed, and its {type(scheduler).__name__} cannot follow; resume with the same "
            "learning rate, or start a new run"
        )
    for place, scheduled in enumerate(scheduler.optimizer.param_groups):
        if scheduled is group:
            scheduler.base_lrs[place] = scheduler.base_lrs[place] * factor
