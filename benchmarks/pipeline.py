"""Stages that learn at the same time in several processes of one thread each, against one process.

    python benchmarks/pipeline.py [--steps N] [--rounds N]

The engine itself, without Lightning, on made-up images: a balanced stack of 8 convolutional stages on 2 processes, and
a resnet18 cut in 4 on 2 and on 4. Beside it one process with one and with two threads, and two processes that share
each batch out and sum their gradients (as DDP). The sides take turns, each in fresh processes. Every pipeline has to
leave the very parameters of one process. Seconds of a processor are told beside those of the clock: on a machine that
others use too, the clock says what was left over, and the processors' seconds what it would be alone. The model of
`pipeline_model.py` says what step it expects of the stage times measured in one process. The last line is one JSON
object.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch
from pipeline_model import Stage, pipeline_step
from timing import conclude, machine
from torch import Tensor, nn
from torch import distributed as dist

from primenet_lightning import CompositeOptimizer, CutNet, CutNetwork, StagedNetwork, StageRunner
from primenet_lightning.pipeline.line import Line
from primenet_lightning.pipeline.memory import free_others
from primenet_lightning.pipeline.placement import place_stages
from primenet_lightning.pipeline.section import PipelineSection
from primenet_lightning.training.exchange import ALONE, Replicas

WARM_UP = 5
BANDWIDTH, LATENCY = 2e9, 1e-4
"""Of gloo between processes of this machine, bytes a second and seconds: what the model assumes."""


class Side(NamedTuple):
    """A way to train."""

    network: str
    processes: int = 1
    threads: int = 1
    shares: bool = False


SIDES = {
    "one": Side("stack"),
    "one, two threads": Side("stack", threads=2),
    "pipeline of two": Side("stack", 2),
    "two share the batch": Side("stack", 2, shares=True),
    "resnet: one": Side("resnet"),
    "resnet: pipeline of two": Side("resnet", 2),
    "resnet: pipeline of four": Side("resnet", 4),
}


OVER = {
    "two_over_one": "pipeline of two",
    "two_threads_over_one": "one, two threads",
    "two_shares_over_one": "two share the batch",
    "resnet_two_over_one": "resnet: pipeline of two",
    "resnet_four_over_one": "resnet: pipeline of four",
}
"""Ratios to one process, by the clock; those by work take the process that works most."""


class Measured(NamedTuple):
    """What a process has found.

    Attributes:
        seconds: A step, by the clock.
        work: A step, in this process's seconds of a processor.
        idle: Share of that in which it waited for others.
        stages: Seconds of each stage, of one process.
        state: Parameters and buffers that it has trained.
    """

    seconds: float
    work: float
    idle: float
    stages: list[float]
    state: dict[str, Any]


def stack() -> CutNetwork:
    """Eight stages of about equal cost."""
    layers: list[nn.Module] = []
    for _ in range(8):
        convolutions: list[nn.Module] = []
        for _ in range(2):
            convolutions += [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
        layers.append(nn.Sequential(*convolutions))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    return CutNetwork(model, (32, 16, 16), at=[str(place) for place in range(1, 8)])


def resnet() -> StagedNetwork:
    """A resnet18 cut in four parts of about equal cost."""
    return CutNet("resnet18", image_size=(32, 32), parts=4, recipe="greedy").network


NETWORKS = {"stack": stack, "resnet": resnet}


class Clock:
    """Notes when each stage begins, and how long this process waits."""

    def __init__(self, network: StagedNetwork, line: Line | None) -> None:
        self.begins: list[float] = []
        self.waited = 0.0
        for stage in network.stages:
            stage.run_learners = self._noting(stage.run_learners)  # type: ignore[method-assign]
        if line is not None:
            line.receive = self._waiting(line.receive)  # type: ignore[method-assign]
            line.send = self._waiting(line.send)  # type: ignore[method-assign]

    def _noting(self, run: Any) -> Any:
        def noted(*args: Any) -> Any:
            self.begins.append(time.process_time())
            return run(*args)

        return noted

    def _waiting(self, call: Any) -> Any:
        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            result = call(*args)
            self.waited += time.perf_counter() - started
            return result

        return timed


def train(rank: int, side: Side, port: int, begins: list[int], steps: int) -> Measured:
    """Train as one of the processes of a side."""
    torch.set_num_threads(side.threads)
    torch.manual_seed(0)
    network = NETWORKS[side.network]()
    section = None
    line = None
    exchange = ALONE
    if side.processes > 1:
        _join(rank, side.processes, port)
    if side.processes > 1 and not side.shares:
        line = Line(list(range(side.processes)), rank)
        section = PipelineSection(network, begins, line)
        free_others(section)
    elif side.shares:
        exchange = Replicas()
    learners = network.learners() if section is None else section.learners()
    optimizers = {name: torch.optim.SGD(part, 0.05, momentum=0.9) for name, part in learners.items()}
    runner = StageRunner(network, CompositeOptimizer(optimizers), exchange=exchange, section=section)
    clock = Clock(network, line)
    started = worked = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            clock.waited, started, worked = 0.0, time.perf_counter(), time.process_time()
            clock.begins.clear()
        x, target = _batch(step, network)
        if side.shares:
            x, target = x.chunk(2)[rank], target.chunk(2)[rank]
        runner.step(x, target, exchange.share(len(target), x.device))
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    stages = _stage_times([*clock.begins, time.process_time()], len(network.stages)) if section is None else []
    if line is not None:
        line.close()
    return Measured(seconds / steps, work / steps, clock.waited / seconds, stages, _state(network))


def _join(rank: int, size: int, port: int) -> None:
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)


BATCH = {"stack": 32, "resnet": 16}


def _batch(step: int, network: StagedNetwork) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    size = BATCH["stack"] if network.in_shape[0] == 32 else BATCH["resnet"]
    images = torch.randn(size, *network.in_shape, generator=generator)
    return images, torch.randint(10, (size,), generator=generator)


def _stage_times(begins: list[float], stages: int) -> list[float]:
    """The median over steps, in seconds of a processor; the optimizers' step counts as the last stage's."""
    steps = [begins[first : first + stages + 1] for first in range(0, len(begins) - stages, stages)]
    return [statistics.median(step[place + 1] - step[place] for step in steps) for place in range(stages)]


def _state(network: StagedNetwork) -> dict[str, Any]:
    state = {}
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor) and not value.is_meta:
            state[name] = value.numpy()
    return state


def run(side: Side, begins: list[int], steps: int) -> list[Measured]:
    """Train in so many fresh processes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with ProcessPoolExecutor(side.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        ranks = [pool.submit(train, rank, side, port, begins, steps) for rank in range(side.processes)]
        return [rank.result() for rank in ranks]


def difference(whole: dict[str, Any], parts: list[Measured]) -> float:
    """The largest between what one process has trained and what a pipeline has."""
    largest = 0.0
    together: dict[str, Any] = {}
    for part in parts:
        together |= part.state
    assert together.keys() == whole.keys()
    for name, value in whole.items():
        largest = max(largest, float(abs(together[name].astype(float) - value.astype(float)).max(initial=0.0)))
    return largest


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=[], help="Sides to leave out.")
    options = parser.parse_args()
    sides = {name: side for name, side in SIDES.items() if name not in options.without}
    results: dict[str, list[list[Measured]]] = {name: [] for name in sides}
    expected: dict[str, list[float]] = {name: [] for name in sides}
    largest = 0.0
    stage_times: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, side in sides.items():
            begins: list[int] = []
            if side.processes > 1 and not side.shares:
                network = NETWORKS[side.network]()
                begins = place_stages(network, stage_times[side.network], side.processes)
                expected[name].append(_expected(side, network, stage_times[side.network], begins))
            results[name].append(run(side, begins, options.steps))
            print(f"{name}: {1000 * results[name][-1][0].seconds:.1f} ms a step", file=sys.stderr, flush=True)
            if side.processes == side.threads == 1:
                stage_times[side.network] = results[name][-1][0].stages
            if begins:
                whole = results["one" if side.network == "stack" else "resnet: one"][-1][0].state
                largest = max(largest, difference(whole, results[name][-1]))
    conclude(_figures(results, expected) | {"largest_difference": largest, "device": machine()}, [])


def _expected(side: Side, network: StagedNetwork, seconds: list[float], begins: list[int]) -> float:
    """The step that the model expects, where so many processes share the cores of this machine."""
    stages = []
    for stage, taken in zip(network.stages, seconds, strict=True):
        map_bytes = 4.0 * BATCH[side.network] * torch.Size(stage.out_shape).numel()
        stages.append(Stage(taken, map_bytes))
    return pipeline_step(stages, begins, BANDWIDTH, LATENCY, cores=os.cpu_count())


def _figures(results: dict[str, list[list[Measured]]], expected: dict[str, list[float]]) -> dict[str, float | str]:
    figures: dict[str, float | str] = {}
    medians: dict[str, float] = {}
    works: dict[str, float] = {}
    for name in results:
        side = SIDES[name]
        steps = [max(process.seconds for process in processes) for processes in results[name]]
        medians[name] = statistics.median(steps)
        works[name] = statistics.median(max(process.work for process in processes) for processes in results[name])
        idle = [round(process.idle, 3) for process in results[name][-1]]
        rate = BATCH[side.network] / medians[name]
        clock, work = 1000 * medians[name], 1000 * works[name]
        print(f"{name:>26}: {clock:7.1f} ms a step, {work:7.1f} of a processor, {rate:6.1f} images/s, waiting {idle}")
        figures[f"{name}: images/s"] = rate
        if expected[name]:
            figures[f"{name}: expected over measured"] = statistics.median(expected[name]) / medians[name]
            figures[f"{name}: waiting"] = ", ".join(map(str, idle))
    for name, over in OVER.items():
        one = "one" if SIDES[over].network == "stack" else "resnet: one"
        if over in medians and one in medians:
            figures[name] = medians[one] / medians[over]
            figures[f"{name}_by_work"] = works[one] / works[over]
    figures["load"] = os.getloadavg()[0]
    return figures


if __name__ == "__main__":
    main()
