"""What memory the ways of sending losses backward need, and what time, on one network of growing depth.

    python benchmarks/memory.py [--depths N ...] [--ways NAME ...] [--batch N] [--steps N] [--device cpu|cuda]

Three-capsule blocks of equal width at constant resolution, trained by a step without optimizer:

- end_to_end: the head's loss goes backward through all blocks; each hands on the mean of its capsules' maps beside its
  projection, nothing is detached, the local classifiers are idle;
- end_to_end_checkpointed: the same, with torch.utils.checkpoint around every block;
- fused, blockwise, capsulewise: local losses, as the engine sends them backward with ``backward="batch"``, ``"stage"``
  and ``"learner"``.

Three tables say, for each way and depth:

- the peak of saved activations: the most bytes that autograd held at any time of a step, forward and backward, in
  distinct storages that it had saved, without parameters, buffers, images and labels;
- the growth of the process's peak resident size over just before the first step, each figure in a fresh process. It has
  in it what is not saved too, passing results, and the allocator's habits. The gradients are there before: allocated
  anew between activations at each step, they splinter the heap of glibc, and block-wise backward at depth 32 took 50 to
  110 MiB instead of 30;
- the time of a step, median and quartiles.

The last line is one JSON object. The command fails if block-wise backward at depth 32 holds more than 1.05 of what it
holds at depth 2, or at depth 16 not less than end-to-end backprop with checkpointing.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from references import mean_and_projection
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from primenet_lightning import Architecture, PrimeBlock, PrimeNetwork
from primenet_lightning.analysis.memory import SavedActivations
from primenet_lightning.training.runner import Rhythm, StageRunner

MIB = 2**20
IN_SHAPE = (3, 32, 32)
CLASSES = 10
WIDTHS = Architecture(
    reduce_channels=8,
    channels=16,
    projection_channels=8,
    head_channels=16,
    local_classifier="pooled",
    stride=1,
)
DEPTHS = (2, 4, 8, 16, 32)
LARGEST_RATIO = 1.05


# -- the five ways -----------------------------------------------------------------------------------------------------


def end_to_end(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward of the head's loss through everything."""
    x = images
    for block in network.prime_blocks:
        x = mean_and_projection(block, x)
    torch.autograd.backward(functional.cross_entropy(network.head(x), target))


def end_to_end_checkpointed(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """The same; of each block only the input is kept, the rest is computed again in the backward pass.

    Checkpointing is reentrant, because `SavedActivations` has to see what is computed again: the non-reentrant kind
    puts hooks of its own around a block, and only the innermost hooks are called. The reentrant kind runs blocks
    without gradients unless an argument wants one; the images do not, so that an empty tensor does.
    """
    x, wants_gradient = images, images.new_empty(0, requires_grad=True)
    for block in network.prime_blocks:

        def run(x: Tensor, _: Tensor, block: PrimeBlock = block) -> Tensor:
            return mean_and_projection(block, x)

        x = checkpoint(run, x, wants_gradient, use_reentrant=True, preserve_rng_state=False)
    torch.autograd.backward(functional.cross_entropy(network.head(x), target))


def fused(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward of the sum of all local losses."""
    StageRunner(network, rhythm=Rhythm(backward="batch")).run(images, target)


def blockwise(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward a block, before the next one runs."""
    StageRunner(network).run(images, target)


def capsulewise(network: PrimeNetwork, images: Tensor, target: Tensor) -> None:
    """One backward a capsule, before the next one runs."""
    StageRunner(network, rhythm=Rhythm(backward="learner")).run(images, target)


WAYS: dict[str, Callable[[PrimeNetwork, Tensor, Tensor], None]] = {
    way.__name__: way for way in (end_to_end, end_to_end_checkpointed, fused, blockwise, capsulewise)
}


def build(depth: int, in_shape: tuple[int, int, int] = IN_SHAPE) -> PrimeNetwork:
    """Build the network, the same one at each call; no pool between blocks."""
    torch.manual_seed(0)
    channels, *size = in_shape
    return PrimeNetwork.build(channels, (size[0], size[1]), CLASSES, WIDTHS, depth=depth, pool_every=depth + 1)


def make_batch(size: int, in_shape: tuple[int, int, int] = IN_SHAPE) -> tuple[Tensor, Tensor]:
    """Make images and labels, the same ones at each call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, *in_shape, generator=generator), torch.randint(CLASSES, (size,), generator=generator)


# -- what autograd holds -----------------------------------------------------------------------------------------------


def check_counter(device: str) -> None:
    """Count what can be counted by hand: layers of tanh, each of which saves its output and nothing else.

    Args:
        device: Where; on some, backward runs in a thread of its own, which the hooks must reach.

    Raises:
        RuntimeError: If the count is wrong.
    """
    segments, layers = 5, 3
    x = torch.linspace(-1, 1, 1000, device=device).requires_grad_()
    size = x.untyped_storage().nbytes()

    def segment(x: Tensor) -> Tensor:
        for _ in range(layers):
            x = x.tanh()
        return x

    def run(checkpointed: bool) -> SavedActivations:
        y = x
        with SavedActivations([x]) as counter:
            for _ in range(segments):
                y = checkpoint(segment, y, use_reentrant=True) if checkpointed else segment(y)
            torch.autograd.backward((y * y).sum())  # saves y twice more, in the storage that is counted
        return counter

    # checkpointed: each segment's input (the first is x) and either the last output or a segment computed again
    for checkpointed, expected in ((False, segments * layers), (True, segments - 1 + layers)):
        counter = run(checkpointed)
        if (counter.peak, counter.alive) != (expected * size, 0):
            raise RuntimeError(
                f"{segments} {'checkpointed ' if checkpointed else ''}segments of {layers} layers save {expected} "
                f"tensors of {size} bytes and then let go of them, but {counter.peak} bytes were counted, and "
                f"{counter.alive} afterwards"
            )


def check_gradients() -> None:
    """Compare what is being compared: the local ways learn the same, and so do both end-to-end ones.

    Raises:
        RuntimeError: If a gradient differs by a bit.
    """
    images, target = make_batch(4, (3, 8, 8))
    gradients: dict[str, dict[str, Tensor | None]] = {}
    for name, way in WAYS.items():
        network = build(3, (3, 8, 8))
        way(network, images, target)
        gradients[name] = {key: parameter.grad for key, parameter in network.named_parameters()}
    pairs = ((fused, blockwise), (fused, capsulewise), (end_to_end, end_to_end_checkpointed))
    for one, other in pairs:
        for key, ours in gradients[one.__name__].items():
            theirs = gradients[other.__name__][key]
            idle = ours is None and theirs is None  # a local classifier, end to end
            if not idle and (ours is None or theirs is None or not torch.equal(ours, theirs)):
                raise RuntimeError(f"{one.__name__} and {other.__name__} give different gradients to {key}")


# -- one figure, in a process of its own -------------------------------------------------------------------------------


class Measurement(NamedTuple):
    """What one way needs at one depth.

    Attributes:
        saved: Bytes that autograd held, at most.
        resident: By how many bytes the peak resident size grew; None where the system does not tell.
        cuda: By how many bytes the most allocated on the GPU exceeds what was before; None on the CPU.
        seconds: Lower quartile, median and upper quartile of the steps.
    """

    saved: int
    resident: int | None
    cuda: int | None
    seconds: tuple[float, float, float]


def measure(way_name: str, depth: int, batch: int, steps: int, device: str) -> Measurement:
    """Measure one way at one depth; to be called once in a process.

    Args:
        way_name: Which of `WAYS`.
        depth: Number of blocks.
        batch: Number of images.
        steps: How many are timed, after one that is not.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        The figures.
    """
    torch.set_num_threads(1)  # scratch space of further threads is not the step's
    way = WAYS[way_name]
    images, target = (tensor.to(device) for tensor in make_batch(batch))
    # a first step pages libraries in and starts them; a small one does so without leaving room for the real ones
    way(build(2).to(device), images[:2], target[:2])
    network = build(depth).to(device)
    for parameter in network.parameters():  # see the top of this file
        parameter.grad = torch.zeros_like(parameter)
    collect()

    def seconds() -> float:
        network.zero_grad(set_to_none=False)
        synchronize(device)
        start = time.perf_counter()
        way(network, images, target)
        synchronize(device)
        return time.perf_counter() - start

    before = peak_resident()
    cuda_before = 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        cuda_before = torch.cuda.memory_allocated()
    times = [seconds() for _ in range(1 + steps)][1:]
    after = peak_resident()
    cuda = torch.cuda.max_memory_allocated() - cuda_before if device == "cuda" else None
    low, median, high = statistics.quantiles(times, n=4) if steps > 1 else times * 3

    with SavedActivations([*network.parameters(), *network.buffers(), images, target]) as counter:
        way(network, images, target)
    resident = None if before is None or after is None else after - before
    return Measurement(counter.peak, resident, cuda, (low, median, high))


def synchronize(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def collect() -> None:
    """Give back what is free, and let the peak resident size begin anew, as far as the system can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int | None:
    """Tell the process's peak resident size in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError):
        high_water = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        if high_water is not None:
            return 1024 * int(high_water[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- the command -------------------------------------------------------------------------------------------------------


def measure_all(
    ways: Sequence[str], depths: Sequence[int], batch: int, steps: int, device: str
) -> dict[tuple[str, int], Measurement]:
    """Measure each way at each depth, each in a fresh process.

    Returns:
        Figures by way and depth.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(
        ["primenet_lightning.nn.prime.network"]
    )  # import it once, and not 25 times for ten seconds
    measured = {}
    for depth in depths:
        for way in ways:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                measured[way, depth] = pool.submit(measure, way, depth, batch, steps, device).result()
    return measured


def table(title: str, cells: Mapping[tuple[str, int], str]) -> str:
    """Lay out one row a depth and one column a way."""
    ways, depths = list(dict.fromkeys(way for way, _ in cells)), list(dict.fromkeys(depth for _, depth in cells))
    rows = [["depth", *ways]] + [[str(depth), *(cells[way, depth] for way in ways)] for depth in depths]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *lines, ""])


def mebibytes(count: int | None) -> str:
    """Write bytes for a table."""
    return "-" if count is None else f"{count / MIB:.1f}"


def figures(measured: Mapping[tuple[str, int], Measurement]) -> dict[str, float]:
    """Name all figures for the JSON line; what could not be measured is left out."""
    named: dict[str, float] = {}
    for (way, depth), measurement in measured.items():
        name = f"{way}_depth{depth}"
        named[f"saved_mib_{name}"] = round(measurement.saved / MIB, 3)
        if measurement.resident is not None:
            named[f"rss_mib_{name}"] = round(measurement.resident / MIB, 2)
        if measurement.cuda is not None:
            named[f"cuda_mib_{name}"] = round(measurement.cuda / MIB, 3)
        for key, seconds in zip(("ms_low", "ms", "ms_high"), measurement.seconds, strict=True):
            named[f"{key}_{name}"] = round(1000 * seconds, 2)
    return named


def judge(measured: Mapping[tuple[str, int], Measurement]) -> tuple[dict[str, float], list[str]]:
    """Compare with what is required.

    Returns:
        The ratios by name, those that can be had from what was measured; and a sentence for each that is too large.
    """
    saved = {key: measurement.saved for key, measurement in measured.items()}
    ratios, complaints = {}, []
    shallow, deep = saved.get(("blockwise", 2)), saved.get(("blockwise", 32))
    if shallow and deep:
        ratios["depth32_over_depth2_blockwise"] = ratio = deep / shallow
        if ratio > LARGEST_RATIO:
            complaints.append(
                f"block-wise backward saves {deep / MIB:.2f} MiB at depth 32, {ratio:.3f} of the {shallow / MIB:.2f} "
                f"MiB at depth 2; at most {LARGEST_RATIO} is wanted"
            )
    ours, theirs = saved.get(("blockwise", 16)), saved.get(("end_to_end_checkpointed", 16))
    if ours and theirs:
        ratios["blockwise_over_checkpointed_depth16"] = ours / theirs
        if ours >= theirs:
            complaints.append(
                f"block-wise backward saves {ours / MIB:.2f} MiB at depth 16, not less than the {theirs / MIB:.2f} MiB "
                "of end-to-end backprop with checkpointing"
            )
    return {name: round(ratio, 4) for name, ratio in ratios.items()}, complaints


def positive(text: str) -> int:
    """Parse a positive number."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Measure, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", nargs="+", type=positive, default=DEPTHS, help="Numbers of blocks.")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--batch", type=positive, default=16, help="Images a step.")
    parser.add_argument("--steps", type=positive, default=4, help="Steps that are timed.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here; use --device cpu")
    torch.set_num_threads(1)
    check_counter(options.device)
    check_gradients()
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {platform.machine()}"
    print(
        f"{options.batch} images of {IN_SHAPE} a step, blocks of 3 capsules with {WIDTHS.channels} channels beside a "
        f"projection of {WIDTHS.projection_channels}, on {device}, one thread; a few minutes ...\n",
        flush=True,
    )
    measured = measure_all(options.ways, options.depths, options.batch, options.steps, options.device)
    print(table("Peak of saved activations, MiB", {key: mebibytes(m.saved) for key, m in measured.items()}))
    print(table("Growth of the peak resident size, MiB", {key: mebibytes(m.resident) for key, m in measured.items()}))
    if options.device == "cuda":
        print(
            table("Growth of the most allocated on the GPU, MiB", {k: mebibytes(m.cuda) for k, m in measured.items()})
        )
    times = {key: [1000 * part for part in m.seconds] for key, m in measured.items()}
    print(table("A step, ms (quartiles)", {k: f"{t[1]:.1f} ({t[0]:.1f}-{t[2]:.1f})" for k, t in times.items()}))
    ratios, complaints = judge(measured)
    print(json.dumps({**figures(measured), **ratios, "batch": options.batch, "device": device}))
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
