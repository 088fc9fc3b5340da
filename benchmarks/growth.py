"""How the time of an epoch grows with its work: the exponent of seconds over multiply-adds.

    python benchmarks/growth.py [--root DIR] [--rounds N] [--only NAME ...] [--threads N] [--clock wall|cpu]

Epochs on MNIST, batches of 200, our step without Lightning, fed by our data module. One thing grows at a time: the
number of images, of capsules, of channels (of everything: reduction, maps, projection, head), or the depth (blocks at
14x14, no pool between). The multiply-adds are those of all its images, forward and backward, as run, with convolutions
folded. A line is fitted to the logarithms; its slope is the exponent, 1.05 at most. Below 1 it says that what does
not grow with the multiply-adds, such as memory traffic and calls, is a part of the time. ``exponent_as_written`` is
over the multiply-adds counted layer by layer, without a bound. The last line is one JSON object; the command fails past
a bound.

Over capsules the bound is on ``capsules_added_exponent``, of what is added: the time that the fourth and fifth capsule
add over what the second and third add, in terms of the multiply-adds that they add as run. An exponent over all
multiply-adds asks for what no code can do: folding leaves five capsules 1.5 times the multiply-adds of one, since most
are the head's, while each of them brings a whole batch norm and a classifier of its own.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timing import CLOCKS, Bound, conclude, in_turns, machine, spread
from training import local

from primenet_lightning import Architecture, PrimeNetwork, architecture
from primenet_lightning.analysis.cost import count_training
from primenet_lightning.datamodules import MNISTDataModule

BATCH = 200
IMAGES = 2_000
IMAGE_SIZE = (28, 28)
SCALES = (3, 5, 7, 9, 11)
AXES: dict[str, tuple[int, ...]] = {
    "images": (2_000, 4_000, 8_000, 16_000),
    "capsules": (1, 2, 3, 4, 5),
    "channels": (16, 32, 64, 128),
    "depth": (1, 2, 4, 8),
}
BOUNDS = [
    *(Bound(f"{axis}_exponent", "at most", 1.05) for axis in AXES if axis != "capsules"),
    Bound("capsules_added_exponent", "at most", 1.05),
]


class Size(NamedTuple):
    """One size on an axis, and the work of its epoch.

    Attributes:
        value: On the axis.
        gmacs: Multiply-adds of an epoch as run, in thousand millions.
        gmacs_as_written: Counted layer by layer.
    """

    value: str
    gmacs: float
    gmacs_as_written: float


def build(axis: str, value: int) -> PrimeNetwork:
    """The compact network with one thing grown."""
    widths, scales, depth = architecture("compact", IMAGE_SIZE), 3, 1
    if axis == "channels":
        widths = Architecture(value // 2, value, value, 2 * value, widths.local_classifier, widths.stride)
    if axis == "capsules":
        scales = value
    if axis == "depth":
        depth = value
    torch.manual_seed(0)
    return PrimeNetwork.build(1, IMAGE_SIZE, 10, widths, SCALES[:scales], depth, pool_every=depth + 1)


def epoch(network: PrimeNetwork, root: str, images: int) -> Callable[[], None]:
    """One epoch over so many images."""
    data = MNISTDataModule(root=root, batch_size=BATCH, limit_train=images)
    data.prepare_data()
    data.setup("fit")
    step = local(network)

    def run() -> None:
        for batch in data.train_dataloader():
            step(data.normalize(batch[0]), batch[1])

    return run


def measure(axis: str, root: str, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Time an axis and print its table.

    Returns:
        Figures by name, each beginning with the axis's.
    """
    sizes: list[Size] = []
    sides: dict[str, Callable[[], None]] = {}
    for value in AXES[axis]:
        network, images = build(axis, value), IMAGES
        if axis == "images":
            images = value
        gmacs = images * count_training(network, as_run=True) / 1e9
        sizes.append(Size(str(value), gmacs, images * count_training(network) / 1e9))
        sides[str(value)] = epoch(network, root, images)
    times = in_turns(sides, rounds, warm_up=1, clock=clock)
    # the table
    figures: dict[str, float] = {}
    seconds: list[float] = []
    print(f"\n{axis:>10} {'G multiply-adds':>16} {'as written':>10}  seconds an epoch")
    for size in sizes:
        quartiles = spread(times[size.value])
        seconds.append(quartiles.median)
        figures[f"{axis}_{size.value}_seconds"] = quartiles.median
        figures[f"{axis}_{size.value}_gmacs"] = size.gmacs
        figures[f"{axis}_{size.value}_gmacs_as_written"] = size.gmacs_as_written
        print(f"{size.value:>10} {size.gmacs:16.2f} {size.gmacs_as_written:10.2f}  {quartiles}")
    # the exponents
    exponent = slope([size.gmacs for size in sizes], seconds)
    as_written = slope([size.gmacs_as_written for size in sizes], seconds)
    print(f"exponent {exponent:.3f}, as written {as_written:.3f}")
    figures |= {f"{axis}_exponent": exponent, f"{axis}_exponent_as_written": as_written}
    if axis == "capsules":
        figures["capsules_added_exponent"] = slope(_added([size.gmacs for size in sizes]), _added(seconds))
        print(f"exponent of what is added {figures['capsules_added_exponent']:.3f}")
    return figures


def _added(values: Sequence[float]) -> list[float]:
    """What the second and third of five capsules add, and what the fourth and fifth do."""
    one, _, three, _, five = values
    return [three - one, five - three]


def slope(work: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent of the seconds over the work: the slope between their logarithms."""
    return statistics.linear_regression(list(map(math.log, work)), list(map(math.log, seconds))).slope


def main() -> None:
    """Measure, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("PRIMENET_DATA", "data"), help="Folder of MNIST.")
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of one thread, for a busy machine.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, float] = {}
    for axis in options.only:
        figures |= measure(axis, options.root, options.rounds, CLOCKS[options.clock])
    conclude(figures | {"device": machine()}, BOUNDS)


if __name__ == "__main__":
    main()
