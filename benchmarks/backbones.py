"""What cutting a backbone saves and costs: memory, time and multiply-adds over end-to-end training.

    python benchmarks/backbones.py [--models NAME ...] [--parts 2 4 8] [--rounds 5] [--threads 1] [--rows FILE]

resnet50 and a small vision transformer on images of 224 x 224 pixels, batches of 8, and resnet110 on 32 x 32, batches
of 128, in float32; a step is forward and backward, without optimizer. The ways of training:

- end to end: one backward of the loss through the whole model;
- checkpointed: the same, of each part only the input kept (`torch.utils.checkpoint`), the model cut into as many parts;
- accumulated: the same in smaller batches, so small that no more is held than by local learning, whose gradients are
  added up (batch norm then sees the smaller batches: these are not quite the same numbers);
- local: K parts of about equal saved activations, each with DGL's classifier, one backward each.

Three tables, each figure over that of end to end: the peak of saved activations, as in ``benchmarks/memory.py``; the
growth of the process's peak resident size, each figure in a fresh process; and the time of a step, in turns in one
process: seconds of the processor for one thread, of the clock for more. The last line is one JSON object. The command
fails if four parts of resnet50 hold more than half of the saved activations, or take more than 1.15 of the time.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from memory import collect, difference, in_fresh_process, peak_resident
from timing import Bound, conclude, in_turns, machine, ratio
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchvision.models import VisionTransformer, resnet50

from primenet_lightning import SavedActivations, StageRunner
from primenet_lightning.analysis.cost import count_training
from primenet_lightning.files import write_whole
from primenet_lightning.nn.cutting.network import CutNetwork, UncutNetwork
from primenet_lightning.nn.resnets import SmallImageResNet

BOUNDS = [
    Bound("resnet50_k4_over_end_to_end", "at most", 0.5),
    Bound("resnet50_k4_time_over_end_to_end", "at most", 1.15),
]

END_TO_END, CHECKPOINTED, ACCUMULATED, LOCAL = "end to end", "checkpointed", "accumulated", "local"


class Setting(NamedTuple):
    """A model and its batch.

    Attributes:
        build: Makes the model.
        size: Height and width of the images, in pixels.
        batch: Images in a step.
    """

    build: Callable[[], nn.Module]
    size: int
    batch: int


def vit_small() -> nn.Module:
    """The vision transformer of 22 M parameters that others call vit_small_patch16_224."""
    model: nn.Module = VisionTransformer(
        224, 16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536, num_classes=1000
    )
    return model


SETTINGS = {
    "resnet50": Setting(resnet50, 224, 8),
    "vit_small": Setting(vit_small, 224, 8),
    "resnet110": Setting(lambda: SmallImageResNet(110), 32, 128),
}


class Way(NamedTuple):
    """A way to train a model.

    Attributes:
        kind: One of the four.
        parts: Into how many parts the model is cut; 1 where it is not.
        micro_batch: Images that go backward at a time; None for the whole batch.
    """

    kind: str
    parts: int = 1
    micro_batch: int | None = None


class Memory(NamedTuple):
    """What a way needs.

    Attributes:
        saved: Bytes that autograd held, at most.
        resident: By how many bytes the peak resident size grew; None where the system does not tell.
    """

    saved: int
    resident: int | None


def stepper(setting: Setting, way: Way) -> tuple[nn.Module, Callable[[Tensor, Tensor], None]]:
    """Build the model, and what goes forward and backward with a batch."""
    torch.manual_seed(0)
    in_shape = (3, setting.size, setting.size)
    model = setting.build()
    if way.kind == LOCAL:
        network = CutNetwork(model, in_shape, parts=way.parts, balance="activations", recipe="dgl").train()
        runner = StageRunner(network)
        return network, lambda images, target: _run(runner, images, target)
    if way.kind == CHECKPOINTED:
        cut = CutNetwork(model, in_shape, parts=way.parts, balance="activations", recipe="dgl").train()
        parts = [stage.part for stage in cut._segments]
        return model, lambda images, target: _checkpointed(parts, images, target)
    whole = StageRunner(UncutNetwork(model, in_shape).train())
    micro_batch = way.micro_batch or setting.batch
    return model, lambda images, target: _accumulated(whole, images, target, micro_batch)


def _run(runner: StageRunner, images: Tensor, target: Tensor) -> None:
    runner.run(images, target)


def _accumulated(runner: StageRunner, images: Tensor, target: Tensor, micro_batch: int) -> None:
    window = len(images) // micro_batch
    for few, labels in zip(torch.split(images, micro_batch), torch.split(target, micro_batch), strict=True):
        runner.run(few, labels, window=window)


def _checkpointed(parts: Sequence[nn.Module], images: Tensor, target: Tensor) -> None:
    # reentrant, as in benchmarks/ways.py: only so can be counted what is computed again
    x, wants_gradient = images, images.new_empty(0, requires_grad=True)
    for part in parts:

        def run(x: Tensor, _: Tensor, part: nn.Module = part) -> Tensor:
            result: Tensor = part(x)
            return result

        x = checkpoint(run, x, wants_gradient, use_reentrant=True)
    torch.autograd.backward(functional.cross_entropy(x, target))


def make_batch(setting: Setting) -> tuple[Tensor, Tensor]:
    """Make images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(setting.batch, 3, setting.size, setting.size, generator=generator)
    return images, torch.arange(setting.batch) % 10


def measure(name: str, way: Way) -> Memory:
    """Measure the memory of one way; to be called once in a process."""
    torch.set_num_threads(1)  # scratch space of further threads is not the step's
    setting = SETTINGS[name]
    network, step = stepper(setting, way)
    images, target = make_batch(setting)
    for parameter in network.parameters():  # see benchmarks/memory.py
        parameter.grad = torch.zeros_like(parameter)
    collect()
    before = peak_resident()
    step(images, target)
    resident = difference(peak_resident(), before)
    with SavedActivations([*network.parameters(), *network.buffers(), images, target]) as counter:
        step(images, target)
    return Memory(counter.peak, resident)


def small_enough(name: str, bytes_held: int) -> tuple[Way, Memory]:
    """Find the largest part of the batch that end-to-end training holds no more of than so many bytes."""
    batch = SETTINGS[name].batch
    micro_batch = batch
    while True:
        way = Way(ACCUMULATED, 1, micro_batch)
        memory = in_fresh_process(measure, name, way)
        if memory.saved <= bytes_held or micro_batch == 1:
            return way, memory
        micro_batch //= 2


def memory_of(name: str, all_parts: list[int]) -> dict[Way, Memory]:
    """Measure all ways of a model."""
    memories = {Way(END_TO_END): in_fresh_process(measure, name, Way(END_TO_END))}
    for parts in all_parts:
        local = Way(LOCAL, parts)
        memories[local] = in_fresh_process(measure, name, local)
        memories[Way(CHECKPOINTED, parts)] = in_fresh_process(measure, name, Way(CHECKPOINTED, parts))
        way, memory = small_enough(name, memories[local].saved)
        memories[way._replace(parts=parts)] = memory
    return memories


def times_of(name: str, ways: list[Way], rounds: int) -> dict[Way, float]:
    """Time a step of each way over one of end to end: the median of ratios, in turns."""
    setting = SETTINGS[name]
    images, target = make_batch(setting)
    sides: dict[str, Callable[[], object]] = {}
    for number, way in enumerate(ways):
        network, step = stepper(setting, way)
        sides[str(number)] = _timed(network, step, images, target)
    # seconds of the processor: in one thread, what else the machine does is not counted
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = in_turns(sides, rounds, warm_up=1, clock=clock)
    ratios: dict[Way, float] = {}
    for number, way in enumerate(ways):
        ratios[way] = ratio(seconds[str(number)], seconds["0"]).median
    return ratios


def _timed(
    network: nn.Module, step: Callable[[Tensor, Tensor], None], images: Tensor, target: Tensor
) -> Callable[[], object]:
    def side() -> None:
        network.zero_grad(set_to_none=False)
        step(images, target)

    return side


def multiply_adds(name: str, parts: int) -> int:
    """Count those of a training step of one image, the local classifiers included; 1 part is end to end."""
    setting = SETTINGS[name]
    in_shape = (3, setting.size, setting.size)
    if parts == 1:
        return count_training(UncutNetwork(setting.build(), in_shape))
    return count_training(CutNetwork(setting.build(), in_shape, parts=parts, balance="activations", recipe="dgl"))


class Row(NamedTuple):
    """What a way to train a model costs, over training end to end.

    Attributes:
        model: Its name.
        way: One of the four.
        parts: Into how many the model is cut; of ``accumulated`` those of the local way that holds no less.
        micro_batch: Images that go backward at a time; None for the whole batch.
        saved: Peak of saved activations.
        resident: Growth of the peak resident size; None where the system does not tell.
        time: Of a step.
        multiply_adds: Of a step; None where the count does not see what is computed again.
    """

    model: str
    way: str
    parts: int
    micro_batch: int | None
    saved: float
    resident: float | None
    time: float
    multiply_adds: float | None


def rows_of(
    name: str, memories: Mapping[Way, Memory], times: Mapping[Way, float], costs: Mapping[int, int]
) -> list[Row]:
    """Relate all ways of a model to the first, which is end to end."""
    whole = memories[Way(END_TO_END)]
    rows: list[Row] = []
    for way, memory in memories.items():
        resident = None
        if memory.resident is not None and whole.resident:
            resident = memory.resident / whole.resident
        multiply_adds: float | None = 1.0
        if way.kind == LOCAL:
            multiply_adds = costs[way.parts] / costs[1]
        elif way.kind == CHECKPOINTED:
            multiply_adds = None
        saved = memory.saved / whole.saved
        rows.append(Row(name, way.kind, way.parts, way.micro_batch, saved, resident, times[way], multiply_adds))
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """Print one line per way."""
    print(f"{'':36}saved  resident  time  multiply-adds")
    for row in rows:
        label = row.way if row.parts == 1 else f"{row.way}, {row.parts} parts"
        if row.micro_batch is not None:
            label = f"{row.way} by {row.micro_batch}, held at {row.parts} local parts"
        resident = "-" if row.resident is None else f"{row.resident:.2f}"
        cost = "-" if row.multiply_adds is None else f"{row.multiply_adds:.2f}"
        print(f"{label:36}{row.saved:5.2f}{resident:>10}{row.time:6.2f}{cost:>15}", flush=True)


def figures_of(rows: Sequence[Row]) -> dict[str, float]:
    """Give the figures of all but end to end by name."""
    figures: dict[str, float] = {}
    for row in rows:
        if row.way == END_TO_END:
            continue
        key = f"{row.model}_k{row.parts}" + ("" if row.way == LOCAL else f"_{row.way}")
        figures[f"{key}_over_end_to_end"] = row.saved
        figures[f"{key}_time_over_end_to_end"] = row.time
        if row.resident is not None:
            figures[f"{key}_resident_over_end_to_end"] = row.resident
        if row.way == LOCAL and row.multiply_adds is not None:
            figures[f"{key}_multiply_adds_over_end_to_end"] = row.multiply_adds
    return figures


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--parts", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--rows", type=Path, help="File for all figures, as JSON: those of docs/results/backbones.json."
    )
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables, and one line of JSON."""
    options = parse()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.models:
        memories = memory_of(name, options.parts)
        times = times_of(name, list(memories), options.rounds)
        costs = {parts: multiply_adds(name, parts) for parts in [1, *options.parts]}
        print(f"\n{name}: end to end holds {memories[Way(END_TO_END)].saved / 2**20:.0f} MiB of saved activations")
        of_model = rows_of(name, memories, times, costs)
        print_table(of_model)
        rows += of_model
        if options.rows is not None:
            write_whole(options.rows, json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    figures: dict[str, float | str] = {**figures_of(rows)}
    conclude(figures | {"device": machine("cpu")}, BOUNDS)


if __name__ == "__main__":
    main()
