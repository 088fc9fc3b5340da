"""Which stages go to which process: by measured time, and never between stages that need each other."""

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from primenet_lightning.nn.cutting.balance import REPEATS, share_out, wait_for
from primenet_lightning.nn.layers import random_numbers_kept
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.stages import Stage
from primenet_lightning.pipeline.memory import lent_memory


def inseparable(network: StagedNetwork) -> list[list[int]]:
    """Group stages that have to be in one process: a later loss trains, or an objective looks at, another one's part.

    Args:
        network: Whose stages.

    Returns:
        Places of stages, each group in a row, together all of them.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> inseparable(PrimeNet(depth=3, pool_every=9).network)  # the head trains the last block's projection
        [[0], [1], [2, 3]]
    """
    stages = network.stages
    last_user = _last_users(stages)
    groups: list[list[int]] = []
    reaches = -1  # the last stage that one of the group needs
    for place, stage in enumerate(stages):
        if place <= reaches:
            groups[-1].append(place)
        else:
            groups.append([place])
        needs = place + 1 if stage.needs_next else place
        reaches = max(reaches, needs, *(last_user[id(parameter)] for parameter in stage.parameters()), place)
    return groups


def _last_users(stages: Sequence[Stage]) -> dict[int, int]:
    """The last stage that has each parameter."""
    users: dict[int, int] = {}
    for place, stage in enumerate(stages):
        for parameter in stage.parameters():
            users[id(parameter)] = place
    return users


def place_stages(network: StagedNetwork, seconds: Sequence[float], sections: int) -> list[int]:
    """Share stages out to processes, so that the slowest process is as fast as possible.

    Args:
        network: Whose stages.
        seconds: Of each stage.
        sections: How many processes.

    Returns:
        Of each process, the place of its first stage.

    Raises:
        ValueError: If there are more processes than stages that can be parted.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> place_stages(PrimeNet(depth=4, pool_every=9).network, [4.0, 1.0, 1.0, 1.0, 1.0], sections=2)
        [0, 1]
    """
    groups = inseparable(network)
    refuse_more_than(len(groups), sections, len(network.stages))
    pieces = [sum(seconds[place] for place in group) for group in groups]
    begins = share_out(pieces, [0.0] * len(pieces), sections)
    return [0, *(groups[begin][0] for begin in begins)]


def refuse_more_than(groups: int, sections: int, stages: int) -> None:
    """Refuse more processes than stages.

    Args:
        groups: How many groups of stages can be parted.
        sections: How many processes.
        stages: How many stages.

    Raises:
        ValueError: If there are too many processes.
    """
    if sections > groups:
        together = "" if groups == stages else f", some of which need each other so that {groups} are left to part"
        raise ValueError(
            f"a pipeline of {sections} processes has more of them than the network has stages, {stages}{together}; use "
            f"at most devices={groups} for each replica, or cut the network into more stages"
        )


def refuse_begins(network: StagedNetwork, begins: Sequence[str], sections: int) -> list[int]:
    """Look stages up by name that processes are to begin with.

    Args:
        network: Whose stages.
        begins: Names of the stages that the second process and those after it begin with.
        sections: How many processes.

    Returns:
        Of each process, the place of its first stage.

    Raises:
        ValueError: If there is no such stage, the names are not in order, or stages would be parted that need each
            other.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> refuse_begins(PrimeNet(depth=3, pool_every=9).network, ["block2"], sections=2)
        [0, 2]
    """
    names = [stage.name for stage in network.stages]
    first_of_groups = [group[0] for group in inseparable(network)]
    if len(begins) != sections - 1:
        raise ValueError(
            f"begins={list(begins)} names {len(begins)} stages, but {sections} processes need {sections - 1}: one for "
            "each process but the first"
        )
    places = [0]
    for name in begins:
        if name not in names:
            raise ValueError(f"begins has {name!r}, which is no stage; the stages are {', '.join(names)}")
        place = names.index(name)
        if place <= places[-1]:
            raise ValueError(f"begins={list(begins)} is not in the order of the stages, {', '.join(names)}")
        if place not in first_of_groups:
            raise ValueError(
                f"begins has {name!r}, but it and {names[place - 1]!r} need each other in one process; begin with one "
                f"of {', '.join(names[first] for first in first_of_groups[1:])}"
            )
        places.append(place)
    return places


def seconds_of_stages(network: StagedNetwork, batch_size: int = 16) -> list[float]:
    """Measure how long a training step of each stage takes here. Nothing of the network changes.

    A stage without memory is lent some, with made-up numbers, while it is timed.

    Args:
        network: Whose stages.
        batch_size: Of the made-up images.

    Returns:
        The shortest of some times, of forward and backward passes, by stage.
    """
    like = next((parameter for parameter in network.parameters() if not parameter.is_meta), torch.empty(0))
    seconds: list[float] = []
    with random_numbers_kept(like):
        x = torch.randn(batch_size, *network.in_shape, device=like.device, dtype=like.dtype)
        target = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        for stage in network.stages:
            with lent_memory(stage):
                before = copy.deepcopy(stage.state_dict())
                times: list[float] = []
                for _ in range(REPEATS):
                    time_taken, handed_on = _time(stage, x, target)
                    times.append(time_taken)
                stage.load_state_dict(before)
            seconds.append(min(times))
            x = handed_on
    network.look_at(None)
    return seconds


def _time(stage: Stage, x: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """One step of a stage, and what it hands on."""
    wait_for(x)
    started = time.perf_counter()
    outputs = list(stage.run_learners(x, target))
    handed_on = stage.hand_on(x, outputs, 0).detach()
    losses = [output.loss for output in outputs if output.loss.requires_grad]
    if losses:
        torch.autograd.backward(losses)
    wait_for(x)
    taken = time.perf_counter() - started
    for parameter in stage.parameters():
        parameter.grad = None
    return taken, handed_on
