"""What the benchmarks of speed share: sides in turns, ratios with their spread, bounds, the machine's own rate."""

import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch.nn import functional

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""Give seconds. Processor time, of work in one thread, does not count while other processes run."""


class Spread(NamedTuple):
    """Quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


class Bound(NamedTuple):
    """What a figure must keep."""

    figure: str
    kind: Literal["at least", "at most"]
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a value keeps it; NaN keeps none."""
        return value >= self.limit if self.kind == "at least" else value <= self.limit


def in_turns(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 2,
    synchronize: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time sides in turns, round by round, so that what else the machine does hits all.

    Their order is drawn anew in each round, so that none always comes after the same one and what that left in caches.

    Args:
        sides: What to time, by name.
        rounds: Rounds that count.
        warm_up: Rounds before them that do not.
        synchronize: Waits for the device, where it is not the CPU.
        clock: Of `CLOCKS`.

    Returns:
        Seconds by name, one a round.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    generator, order = random.Random(0), list(sides)
    for turn in range(warm_up + rounds):
        generator.shuffle(order)
        for name in order:
            start = clock()
            sides[name]()
            if synchronize is not None:
                synchronize()
            if turn >= warm_up:
                times[name].append(clock() - start)
    return times


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of some values; of one, that one three times."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Quartiles of a ratio taken round by round, which what slows a whole round does not touch."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def best_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Measure how fast this machine multiplies and adds at its best, in one precision.

    Args:
        dtype: float32 or bfloat16.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        Best of thirty tries, multiply-adds per second, of a matrix product of 2048 and of 3x3 convolutions of 64 and
        of 128 channels, channels last.
    """
    # the jobs, and their multiply-adds
    matrix = torch.randn(2048, 2048, device=device, dtype=dtype)
    jobs: dict[str, Callable[[], object]] = {"matrix": partial(torch.mm, matrix, matrix)}
    counts = {"matrix": 2048**3}
    for channels, side in ((64, 32), (128, 16)):
        x = torch.randn(64, channels, side, side, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        name = f"convolution{channels}"
        jobs[name] = partial(functional.conv2d, x, weight, padding=1)
        counts[name] = 64 * side * side * channels * channels * 9
    # the best of them
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    with torch.no_grad():
        times = in_turns(jobs, 30, synchronize=synchronize)
    return max(counts[name] / min(times[name]) for name in jobs)


def machine(device: str = "cpu") -> str:
    """Say on what was measured."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def conclude(figures: Mapping[str, float | str], bounds: Sequence[Bound]) -> None:
    """Print all figures as one JSON object, the last line, and fail if one is past its bound.

    Args:
        figures: By name.
        bounds: Those whose figure was not measured are left out.

    Raises:
        SystemExit: With a sentence for each figure past its bound.
    """
    rounded: dict[str, float | str] = {}
    for name, value in figures.items():
        rounded[name] = round(value, 4) if isinstance(value, float) else value
    print(json.dumps(rounded))
    broken: list[str] = []
    for bound in bounds:
        figure = figures.get(bound.figure)
        if isinstance(figure, (int, float)) and not bound.holds(figure):
            broken.append(f"{bound.figure} is {figure:.4f}, and {bound.kind} {bound.limit} is wanted")
    if broken:
        sys.exit("\n".join(broken))
