"""One checkpoint from those of the processes of a row, and each process's part of one."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule

from primenet_lightning.nn.names import LearnerName
from primenet_lightning.pipeline.memory import tensors_of_others
from primenet_lightning.pipeline.section import PipelineSection, own_modules

EXTRA_STATE = "_extra_state"
PER_GROUP = ("base_lrs", "_last_lr")
"""What torch's schedules keep of each parameter group."""

Checkpoint = dict[str, Any]


def own_state(model: LightningModule, section: PipelineSection) -> dict[str, Any]:
    """Give the entries of a model's ``state_dict`` that this process answers for.

    Args:
        model: With the section's network.
        section: Of this process.

    Returns:
        Entries by name: of the stages here, and with the last one all that is no stage's.
    """
    of_others = tensors_of_others(section)
    here = {id(tensor) for stage in section.stages for tensor in [*stage.parameters(), *stage.buffers()]}
    for parameters in section.learners().values():
        here.update(map(id, parameters))
    modules = {id(module) for _, module in own_modules(section)}
    module_of = dict(model.named_modules())
    network = {id(module) for module in section.network.modules()}
    state: dict[str, Any] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if name.endswith(EXTRA_STATE):
            module = module_of[name.removesuffix(EXTRA_STATE).rstrip(".")]
            is_own = id(module) in modules or (section.line.is_last and id(module) not in network)
        else:
            is_own = id(value) in here or (section.line.is_last and id(value) not in of_others)
        if is_own:
            state[name] = value.detach() if hasattr(value, "detach") else value
    return state


# -- together ----------------------------------------------------------------------------------------------------------


def merged(parts: Sequence[Checkpoint], names: Sequence[str]) -> Checkpoint:
    """Put the checkpoints of a row together to the one that one process would have written.

    Args:
        parts: Of the processes, that of the first stages first.
        names: Of the entries of ``state_dict``, in the model's order.

    Returns:
        The whole checkpoint.
    """
    whole = dict(parts[-1])
    state = _united(parts, "state_dict")
    whole["state_dict"] = {name: state[name] for name in names if name in state}
    if "optimizer_states" in whole:
        whole["optimizer_states"] = [merged_optimizers([part["optimizer_states"][0] for part in parts])]
    if whole.get("lr_schedulers"):
        whole["lr_schedulers"] = [merged_schedules([part["lr_schedulers"][0] for part in parts])]
    for entry in ("optimizer_settings", "train_counts"):
        if entry in whole:
            whole[entry] = _united(parts, entry)
    if "pending_gradients" in whole:
        by_replica = zip(*(part["pending_gradients"] for part in parts), strict=True)
        whole["pending_gradients"] = [_joined(of_replica) for of_replica in by_replica]
    if "random_states" in whole:
        whole["random_states"] = parts[0]["random_states"]  # of those who augment the images
    return whole


def _united(parts: Sequence[Checkpoint], entry: str) -> dict[str, Any]:
    return _joined([part[entry] for part in parts])


def _joined(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for dictionary in dictionaries:
        joined |= dictionary
    return joined


def merged_optimizers(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put states of composite optimizers together.

    Args:
        states: Of the processes, that of the first stages first.

    Returns:
        The state of a composite of all their children.

    Example:
        >>> one = {"state": {0: "a"}, "param_groups": [{"name": "part0", "params": [0]}]}
        >>> other = {"state": {1: "c"}, "param_groups": [{"name": "head", "params": [0, 1]}]}
        >>> merged_optimizers([one, other])["param_groups"][1], merged_optimizers([one, other])["state"]
        ({'name': 'head', 'params': [1, 2]}, {0: 'a', 2: 'c'})
    """
    whole: dict[str, Any] = {"state": {}, "param_groups": []}
    count = 0
    for state in states:
        _append(whole, state["state"], state["param_groups"], count)
        count = _count(whole["param_groups"])
    return whole


def _append(
    whole: dict[str, Any], state: Mapping[int, Any], groups: Sequence[Mapping[str, Any]], next_index: int
) -> None:
    """Add groups, whose parameters are counted on from an index."""
    for group in groups:
        indices = range(next_index, next_index + len(group["params"]))
        for old, new in zip(group["params"], indices, strict=True):
            if old in state:
                whole["state"][new] = state[old]
        whole["param_groups"].append({**group, "params": list(indices)})
        next_index = indices.stop


def _count(groups: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(group["params"]) for group in groups)


def merged_schedules(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put states of schedules together.

    Args:
        states: Of the processes, that of the first stages first: one schedule of all groups, or a schedule by learner.

    Returns:
        The state of the schedule of all.

    Example:
        >>> merged_schedules([{"base_lrs": [0.1], "last_epoch": 3}, {"base_lrs": [0.2, 0.3], "last_epoch": 3}])
        {'base_lrs': [0.1, 0.2, 0.3], 'last_epoch': 3}
    """
    whole = _joined(states)
    for key in PER_GROUP:
        if key in whole and isinstance(whole[key], list):
            whole[key] = [rate for state in states for rate in state[key]]
    return whole


# -- apart -------------------------------------------------------------------------------------------------------------


def part_of(checkpoint: Checkpoint, stages: Collection[str]) -> Checkpoint:
    """Take from a whole checkpoint what a process goes on with; what is compared with the model stays whole.

    Args:
        checkpoint: As one process writes it.
        stages: Names of the process's stages.

    Returns:
        The checkpoint with the states of its own optimizers and schedules.
    """
    part = dict(checkpoint)
    if not checkpoint.get("optimizer_states"):
        return part
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    places = [place for place, group in enumerate(groups) if _is_of(group.get("name", ""), stages)]
    own: dict[str, Any] = {"state": {}, "param_groups": []}
    _append(own, checkpoint["optimizer_states"][0]["state"], [groups[place] for place in places], 0)
    part["optimizer_states"] = [own]
    if checkpoint.get("lr_schedulers"):
        schedule = dict(checkpoint["lr_schedulers"][0])
        for key in PER_GROUP:
            if isinstance(schedule.get(key), list):
                schedule[key] = [schedule[key][place] for place in places]
        part["lr_schedulers"] = [schedule]
    return part


def _is_of(group: str, stages: Collection[str]) -> bool:
    """Whether a group's learner is of one of the stages."""
    return LearnerName.parse(group.partition("/")[0]).stage in stages
