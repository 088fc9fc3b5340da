"""Steps of stacks and cut networks over the same networks end to end, for `training.py`."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from stacks import Pair, commit, cut_resnet, runner_of, stack
from timing import Bound, in_turns, ratio, spread

from primenet_lightning.nn.prime.routers import ROUTERS

DEPTHS, CAPSULES, PARTS = (1, 3, 6), (1, 2, 3), (2, 4)


class Times(NamedTuple):
    """What the steps of a side took, round by round.

    Attributes:
        cpu: Seconds of the processor.
        wall: Seconds by the clock.
    """

    cpu: list[float]
    wall: list[float]


def _committed(depth: int, capsules: int, in_shape: tuple[int, int, int]) -> Pair:
    pair = stack(depth, capsules, "commit", in_shape)
    commit(pair.local, choice=capsules // 2)
    return pair


def cases(in_shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, Callable[[], Pair]]:
    """Name all cases: stacks of each depth and number of capsules, each router in one of them, and cut ResNets."""
    named: dict[str, Callable[[], Pair]] = {}
    for depth in DEPTHS:
        for capsules in CAPSULES:
            named[f"stack{depth}x{capsules}"] = partial(stack, depth, capsules, "least_loss", in_shape)
            if capsules > 1:
                named[f"stack{depth}x{capsules}_committed"] = partial(_committed, depth, capsules, in_shape)
    for router in ROUTERS:
        if router != "least_loss":
            named[f"stack3x3_{router}"] = partial(stack, 3, 3, router, in_shape)
    for parts in PARTS:
        named[f"resnet20_in{parts}"] = partial(cut_resnet, parts, in_shape=in_shape)
    return named


def bounds() -> list[Bound]:
    """What the ratios of processor time must keep: 0.8 after committing, and 1.0 with one capsule."""
    kept: list[Bound] = []
    for name in cases():
        if name.endswith("_committed"):
            kept.append(Bound(f"{name}_over_end_to_end", "at most", 0.8))
        elif name.endswith("x1"):
            kept.append(Bound(f"{name}_over_end_to_end", "at most", 1.0))
    return kept


def measure(name: str, rounds: int, batch: int = 128, in_shape: tuple[int, int, int] = (3, 32, 32)) -> dict[str, float]:
    """Time a step of a case and of its twin in turns, with one thread, and print a line.

    Args:
        name: Of `cases`.
        rounds: That count.
        batch: Images.
        in_shape: Channels, height and width of them.

    Returns:
        Figures by name: the ratio of processor times, and of those by the clock.
    """
    pair = cases(in_shape)[name]()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *in_shape, generator=generator)
    target = torch.randint(10, (batch,), generator=generator)
    times = {side: Times([], []) for side in pair._fields}
    runners = {side: runner_of(network) for side, network in pair._asdict().items()}

    def step(side: str) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        runners[side].step(images, target)
        times[side].cpu.append(time.process_time() - cpu)
        times[side].wall.append(time.perf_counter() - wall)

    warm_up = 2
    in_turns({side: partial(step, side) for side in runners}, rounds, warm_up)
    local, twin = (Times(of_side.cpu[warm_up:], of_side.wall[warm_up:]) for of_side in times.values())
    cpu, wall = ratio(local.cpu, twin.cpu), ratio(local.wall, twin.wall)
    print(
        f"{name:>22}  {1000 * spread(local.cpu).median:7.1f} ms of CPU, {cpu} over end to end, by the clock {wall}",
        flush=True,
    )
    return {
        f"{name}_over_end_to_end": cpu.median,
        f"{name}_over_end_to_end_by_the_clock": wall.median,
        f"{name}_ms": 1000 * spread(local.cpu).median,
    }
