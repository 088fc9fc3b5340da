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

The last line is one JSON object. The command fails if block-wise backward at depth 32 holds more than 1.02 of what it
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
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from timing import Spread, spread
from ways import IN_SHAPE, WAYS, WIDTHS, build, check_counter, check_gradients, make_batch

from primenet_lightning import SavedActivations

Result = TypeVar("Result")

MIB = 2**20
DEPTHS = (2, 4, 8, 16, 32)
LARGEST_RATIO = 1.02


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
    seconds: Spread


Measurements = dict[tuple[str, int], Measurement]
"""By way and depth."""


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
    images, target = make_batch(batch)
    images, target = images.to(device), target.to(device)
    # a first step pages libraries in and starts them; a small one does so without leaving room for the real ones
    way(build(2).to(device), images[:2], target[:2])
    network = build(depth).to(device)
    for parameter in network.parameters():  # see the top of this file
        parameter.grad = torch.zeros_like(parameter)
    collect()
    # time steps, and see by how much the peak grows
    before, cuda_before = peak_resident(), allocated_on_gpu(device)
    times: list[float] = []
    for _ in range(1 + steps):
        network.zero_grad(set_to_none=False)
        synchronize(device)
        start = time.perf_counter()
        way(network, images, target)
        synchronize(device)
        times.append(time.perf_counter() - start)
    resident = difference(peak_resident(), before)
    cuda = difference(most_allocated_on_gpu(device), cuda_before)

    # count in one step more what autograd holds
    with SavedActivations([*network.parameters(), *network.buffers(), images, target]) as counter:
        way(network, images, target)
    return Measurement(counter.peak, resident, cuda, spread(times[1:]))


def allocated_on_gpu(device: str) -> int | None:
    """Tell how many bytes are allocated on the GPU, if it is one, and let its peak begin anew."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def most_allocated_on_gpu(device: str) -> int | None:
    """Tell how many bytes were allocated on the GPU at most, if it is one."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def difference(after: int | None, before: int | None) -> int | None:
    """Subtract, where both could be measured."""
    if after is None or before is None:
        return None
    return after - before


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


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process of its own, whose memory nobody has used before.

    Args:
        function: Of a module, so that the process finds it.
        *arguments: Of the function.

    Returns:
        What it returns.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    # imported once, and not 25 times for ten seconds
    context.set_forkserver_preload(["primenet_lightning.nn.prime.network"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# -- the command -------------------------------------------------------------------------------------------------------


def measure_all(ways: Sequence[str], depths: Sequence[int], batch: int, steps: int, device: str) -> Measurements:
    """Measure each way at each depth, each in a fresh process.

    Returns:
        Figures by way and depth.
    """
    measured: Measurements = {}
    for depth in depths:
        for way in ways:
            measured[way, depth] = in_fresh_process(measure, way, depth, batch, steps, device)
    return measured


def print_table(title: str, measured: Measurements, write: Callable[[Measurement], str]) -> None:
    """Print one row a depth and one column a way."""
    ways = list(dict.fromkeys(way for way, _ in measured))
    depths = list(dict.fromkeys(depth for _, depth in measured))
    columns = [["depth", *map(str, depths)]]
    for way in ways:
        columns.append([way, *(write(measured[way, depth]) for depth in depths)])
    for column in columns:
        width = max(map(len, column))
        column[:] = [cell.rjust(width) for cell in column]
    print(title)
    for row in zip(*columns, strict=True):
        print("  ".join(row))
    print()


def milliseconds(measurement: Measurement) -> str:
    """Write the time of a step for a table."""
    low, median, high = measurement.seconds
    return f"{1000 * median:.1f} ({1000 * low:.1f}-{1000 * high:.1f})"


def mebibytes(count: int | None) -> str:
    """Write bytes for a table."""
    return "-" if count is None else f"{count / MIB:.1f}"


def figures(measured: Measurements) -> dict[str, float]:
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


def judge(measured: Measurements) -> tuple[dict[str, float], list[str]]:
    """Compare with what is required.

    Returns:
        The ratios by name, those that can be had from what was measured; and a sentence for each that is too large.
    """
    saved = {key: measurement.saved for key, measurement in measured.items()}
    ratios: dict[str, float] = {}
    complaints: list[str] = []
    shallow, deep = saved.get(("blockwise", 2)), saved.get(("blockwise", 32))
    if shallow and deep:
        ratio = deep / shallow
        ratios["depth32_over_depth2_blockwise"] = ratio
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
    print_table("Peak of saved activations, MiB", measured, lambda m: mebibytes(m.saved))
    print_table("Growth of the peak resident size, MiB", measured, lambda m: mebibytes(m.resident))
    if options.device == "cuda":
        print_table("Growth of the most allocated on the GPU, MiB", measured, lambda m: mebibytes(m.cuda))
    print_table("A step, ms (quartiles)", measured, milliseconds)
    ratios, complaints = judge(measured)
    print(json.dumps({**figures(measured), **ratios, "batch": options.batch, "device": device}))
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
