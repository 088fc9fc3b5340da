"""What a pipeline of locally trained stages should take, event by event, and other ways by their own formulas."""

from collections.abc import Sequence
from typing import NamedTuple

BATCHES = 60
"""Batches that are followed; the second half counts, when the pipeline is filled."""

UNDER_WAY = 2
"""Messages that may be under way."""


class Stage(NamedTuple):
    """A stage of a network.

    Attributes:
        seconds: Of a training step of it, its local classifier included.
        map_bytes: That it hands on for a batch.
    """

    seconds: float
    map_bytes: float


def sections_of(stages: Sequence[Stage], begins: Sequence[int]) -> list[Stage]:
    """Put the stages of each process together.

    Args:
        stages: First to last.
        begins: Of each process the place of its first stage.

    Returns:
        A stage for each process.
    """
    sections: list[Stage] = []
    for begin, end in zip(begins, [*begins[1:], len(stages)], strict=True):
        sections.append(Stage(sum(stage.seconds for stage in stages[begin:end]), stages[end - 1].map_bytes))
    return sections


def pipeline_step(
    stages: Sequence[Stage], begins: Sequence[int], bandwidth: float, latency: float, cores: int | None = None
) -> float:
    """Follow batches through a pipeline, and tell how long a step takes once it is filled.

    A process begins with a batch when its map has come in and the batch before is done; it may hand a map on while the
    one before the last is still under way. Transfers take their time, but nobody's work.

    Args:
        stages: First to last.
        begins: Of each process the place of its first stage.
        bandwidth: Between neighbours, bytes a second.
        latency: Of a message, seconds.
        cores: That all processes share, where they are fewer than these; None gives each its own.

    Returns:
        Seconds.
    """
    sections = sections_of(stages, begins)
    slower = max(len(sections) / cores, 1.0) if cores else 1.0
    if slower > 1:  # cores go to whoever has something to do: at most so much work is done a second
        work = sum(section.seconds for section in sections)
        floor = work / (cores or 1)
    else:
        floor = 0.0
    arrives = [[0.0] * BATCHES for _ in sections]
    done = [[0.0] * BATCHES for _ in sections]
    for batch in range(BATCHES):
        for place, section in enumerate(sections):
            begin = arrives[place][batch]
            if batch:
                begin = max(begin, done[place][batch - 1])
            end = begin + section.seconds
            if place + 1 < len(sections):
                if batch >= UNDER_WAY:  # it waits until the receiver has taken an older one
                    end = max(end, arrives[place + 1][batch - UNDER_WAY])
                sent = end if not batch else max(end, arrives[place + 1][batch - 1])
                taken = sent + latency + section.map_bytes / bandwidth
                if batch >= UNDER_WAY:  # who receives asks for one message ahead
                    taken = max(taken, done[place + 1][batch - UNDER_WAY])
                arrives[place + 1][batch] = taken
            done[place][batch] = end
    half = BATCHES // 2
    step = (done[-1][-1] - done[-1][half - 1]) / (BATCHES - half)
    return max(step, floor)


def data_parallel_step(seconds: float, parameter_bytes: float, devices: int, bandwidth: float, latency: float) -> float:
    """Tell what a step takes when the batch is shared out, each device having the whole model.

    The gradients go round a ring, half of which hides behind the backward pass.

    Args:
        seconds: Of the whole batch on one device, end to end.
        parameter_bytes: Of the model.
        devices: How many.
        bandwidth: Between neighbours, bytes a second.
        latency: Of a message, seconds.

    Returns:
        Seconds.
    """
    ring = 2 * (devices - 1) * (parameter_bytes / devices / bandwidth + latency)
    backward = 2 / 3 * seconds / devices
    return seconds / devices + max(ring - backward / 2, 0.0)


def bubble_step(
    seconds: Sequence[float], map_bytes: Sequence[float], micro_batches: int, bandwidth: float, latency: float
) -> float:
    """Tell what a step of GPipe or 1F1B takes: both fill and drain the pipeline in every step.

    With m micro-batches on K devices a step has m + K - 1 turns of the slowest device (Huang et al. 2019; Narayanan et
    al. 2019). 1F1B differs in the activations that it keeps, of K micro-batches in place of m, and not in time.

    Args:
        seconds: Of the whole batch on each device, forward and backward.
        map_bytes: That each hands on for the whole batch; as much comes back.
        micro_batches: m.
        bandwidth: Between neighbours, bytes a second.
        latency: Of a message, seconds.

    Returns:
        Seconds.
    """
    turn = max(seconds) / micro_batches
    transfer = 2 * (latency + max(map_bytes, default=0.0) / micro_batches / bandwidth)
    filling = len(seconds) - 1
    return (micro_batches + filling) * max(turn, transfer) + filling * transfer
