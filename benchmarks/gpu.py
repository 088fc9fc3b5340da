"""All that takes a GPU, as one command, which is called again until it is done.

    python benchmarks/gpu.py --minutes 9 --out FOLDER --data FOLDER [--only PART ...] [--again] [--tiny]

It runs on a bare machine, from a checkout that need not be installed, with torch 2.11, torchvision 0.26, lightning 2.6
and torchmetrics, or later ones; nothing is downloaded. ``--data`` holds unpacked data: ``MNIST/raw`` and
``cifar-10-batches-py``. Parts whose data are not there are left out, and are due when they are there.

The parts come in order of their worth. Each one is kept in ``FOLDER/gpu.json`` as soon as it is done; one that is there
is not run again, and one for which the minutes that are left do not suffice waits for the next call. Trainings stop
after an epoch, and go on; until then their epochs are kept, and their validation error where there is one. A part that
fails is kept with its error, and is run again under ``--again`` alone.

- ``check_...``: ``16-mixed`` with the real scaler, NCCL and SyncBatchNorm with one process, memory by
  `torch.cuda.max_memory_allocated`, batches that are copied ahead, CUDA graphs;
- ``step_...``: time, share of the card's measured product rate, and gaps between kernels of `compact`, `paper`, stacks
  and cut ResNets; as written, compiled, and with what each stage calls captured as CUDA graphs;
- ``ratio_...``: local learning over end-to-end backprop, in time and in memory, with checkpointing and accumulation;
- ``mnist``: 100 epochs of `compact`; ``fast_cifar10_...``: the fast recipe and its twin, 5 seeds; ``vgg8b``.

``--tiny`` runs the same code with small numbers, on the CPU too. The last line printed is one JSON object: which parts
are done, which failed, and which are left; the exit status is 0 when none is left, 3 when the command is to be called
again, and 1 when all is done and a part has failed.
"""

import argparse
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import checkout  # noqa: F401
import gpu_checks
import gpu_fits
import gpu_steps
import lightning
import torch
import torchmetrics
import torchvision
from gpu_place import FAILURE, FULL, TINY, UNFINISHED, Figures, Kept, Part, Place, Sizes
from timing import machine

CALL_AGAIN = 3
"""Exit status when parts are left."""

CIFAR10, MNIST = "cifar-10-batches-py", "MNIST"


def parts(sizes: Sizes) -> list[Part]:
    """All parts, in order of their worth."""
    names = list(gpu_steps.pairs(sizes))
    checks = [
        Part("check_mixed_precision", 60, gpu_checks.mixed_precision),
        Part("check_one_process", 60, gpu_checks.one_process),
        Part("check_memory", 60, gpu_checks.memory),
        Part("check_copies_ahead", 40, gpu_checks.copies_ahead),
        Part("check_cuda_graphs", 180, gpu_steps.cuda_graphs_learn_the_same),
    ]
    ratios = [Part(f"ratio_{name}", 30, partial(gpu_steps.local_over_end_to_end, name)) for name in names]
    fits = [Part("mnist", 40, gpu_fits.mnist, MNIST)]
    for seed in sizes.fast_seeds:
        for side, local in (("local", True), ("twin", False)):
            fit = partial(gpu_fits.fast_cifar10, seed, local)
            fits.append(Part(f"fast_cifar10_{side}_{seed}", 40, fit, CIFAR10))
    as_written, compiled = steps(sizes, names)
    return [*checks, *as_written, *ratios, *fits, *compiled, Part("vgg8b", 40, gpu_fits.vgg8b, CIFAR10)]


def steps(sizes: Sizes, names: Sequence[str]) -> tuple[list[Part], list[Part]]:
    """Make the parts that time steps.

    Args:
        sizes: Say in which ways.
        names: Of stacks and cut networks.

    Returns:
        Those worth most: of `compact` and `paper` in all ways, and of the others as written. Then those of the others
        compiled, which take minutes each.
    """
    first: list[Part] = []
    rest: list[Part] = []
    for way in [gpu_steps.WAYS[name] for name in sizes.ways]:
        seconds = 20 if way.mode is None else 180
        for size in sizes.sizes:
            first.append(Part(f"step_{size}_{way.name}", seconds, partial(gpu_steps.size_step, size, way)))
        of_pairs = [Part(f"step_{name}_{way.name}", seconds, partial(gpu_steps.pair_step, name, way)) for name in names]
        if way.mode is None:
            first += of_pairs
        else:
            rest += of_pairs
    return first, rest


def work(todo: Sequence[Part], kept: Kept, place: Place, again: bool = False) -> list[str]:
    """Do what there is time for.

    Args:
        todo: In order of worth.
        kept: What is done.
        place: Where, and until when.
        again: Whether parts that failed are run again.

    Returns:
        Names of the parts that are left.
    """
    left: list[str] = []
    for part in todo:
        if kept.is_done(part.name, again):
            continue
        if part.needs is not None and not (place.data / part.needs).exists():
            print(f"{part.name}: left out, there is no {part.needs} in {place.data}", flush=True)
            continue
        needed = 0.0 if place.is_tiny else part.seconds
        if place.seconds_left() <= needed or not place.is_sound():
            left.append(part.name)
            continue
        figures = carried_out(part, kept, place)
        if UNFINISHED in figures:
            left.append(part.name)
    return left


def carried_out(part: Part, kept: Kept, place: Place) -> Figures:
    """Carry a part out, and keep its figures, or what it failed with."""
    start = time.perf_counter()
    try:
        figures = part.work(place)
    except Exception as error:  # the parts that follow are worth as much
        traceback.print_exc()
        figures = {FAILURE: f"{type(error).__name__}: {error}"}
    kept.add(part.name, {**figures, **conditions(place.device), "seconds": time.perf_counter() - start})
    print(f"{part.name}: {json.dumps(kept.parts[part.name])}", flush=True)
    if place.device == "cuda" and place.is_sound():
        torch.cuda.empty_cache()
    return figures


@cache
def conditions(device: str) -> dict[str, str]:
    """On what, and with which versions, all is measured; asked once, since a device may break."""
    return {
        "device": machine(device),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "torchmetrics": torchmetrics.__version__,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="After so many no part is begun any more.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the figures, to go on with.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="Folder of the unpacked data sets.")
    parser.add_argument("--only", nargs="+", help="Parts whose names begin so.")
    parser.add_argument("--again", action="store_true", help="Run parts again that have failed.")
    parser.add_argument("--tiny", action="store_true", help="The same with small numbers, for seconds on a CPU.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what there is time for, and say what is left.

    Args:
        argv: Behind the command's name; None takes the process's own.

    Returns:
        The exit status.
    """
    options = parse(argv)
    end = time.monotonic() + 60 * options.minutes
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        sys.exit("torch sees no GPU, and on a CPU this would take days; run it on a GPU, or with --tiny")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_float32_matmul_precision("high")  # products in TF32, as convolutions are by default
    sizes = TINY if options.tiny else FULL
    place = Place(device, options.data, options.out, sizes, end, options.tiny)
    todo = parts(sizes)
    if options.only is not None:
        todo = [part for part in todo if part.name.startswith(tuple(options.only))]
        if not todo:
            sys.exit(f"--only {' '.join(options.only)} names no part; use {', '.join(p.name for p in parts(sizes))}")
    kept = Kept(options.out)
    conditions(device)
    left = work(todo, kept, place, options.again)
    failed = [part.name for part in todo if FAILURE in kept.parts.get(part.name, {})]
    done = [part.name for part in todo if part.name in kept.parts and part.name not in [*failed, *left]]
    print(json.dumps({"done": done, "failed": failed, "left": left, "call_again": bool(left)}))
    if left:
        return CALL_AGAIN
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
