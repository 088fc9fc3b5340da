"""How fast images are fed: ours over torchvision's `ToTensor` + `Normalize` in a `DataLoader`.

    python benchmarks/data.py --root data

Both sides deliver the same thing, shuffled batches of 128 normalized float32 images with their labels, on
the CPU. Ours is timed over a whole epoch of the training split, torchvision's over a part of the images,
because it is slow; with workers, their start is paid before the clock starts. The sides take turns, so that
other work on the machine hits both; the figures are ratios of medians.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from primenet_lightning.datamodules import CIFAR10DataModule, ImageDataModule, MNISTDataModule

BATCH_SIZE = 128
BASELINE_IMAGES = {0: 12_800, 2: 19_200}  # by number of workers: one to three seconds a pass
WORKERS = (0, 2)


def ours(data: ImageDataModule) -> float:
    """Images per second over one epoch, as in training."""
    loader = data.train_dataloader()
    start = time.perf_counter()
    count = 0
    for batch in loader:
        images, _ = data.on_after_batch_transfer(batch, 0)
        count += len(images)
    return count / (time.perf_counter() - start)


def torchvisions(dataset: Any, workers: int) -> float:
    """Images per second over part of the data set, without the first batch and the start of the workers."""
    subset = Subset(dataset, range(BASELINE_IMAGES[workers]))
    loader: DataLoader[Any] = DataLoader(subset, BATCH_SIZE, shuffle=True, num_workers=workers)
    batches: Iterator[Any] = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(len(images) for images, _ in batches)
    return count / (time.perf_counter() - start)


def compare(ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> tuple[list[float], list[float]]:
    """Rates of two sides that take turns, after one pass of each that does not count."""
    our_rates: list[float] = []
    their_rates: list[float] = []
    for _ in range(1 + repeats):
        our_rates.append(ours())
        their_rates.append(theirs())
    return our_rates[1:], their_rates[1:]


def describe(rates: list[float]) -> str:
    """Median and range of some rates, in thousands."""
    return f"{statistics.median(rates) / 1e3:8.1f}k ({min(rates) / 1e3:.1f}-{max(rates) / 1e3:.1f})"


def main() -> None:
    """Measure, print a table, and as the last line the figures by name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("PRIMENET_DATA", "data")))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    figures: dict[str, float] = {}
    print(f"Images per second: median (range) of {arguments.repeats}; {torch.get_num_threads()} threads.")
    parts = " and ".join(f"{BASELINE_IMAGES[workers]:,} images with {workers} workers" for workers in WORKERS)
    print(f"Ours runs over the whole training split, torchvision over {parts}.")
    print(f"{'':>10} {'workers':>8}  {'ours, 0 workers':<26} {'torchvision':<26} times (range of pairs)")
    for module, reference in ((MNISTDataModule, datasets.MNIST), (CIFAR10DataModule, datasets.CIFAR10)):
        data = module(root=arguments.root, batch_size=BATCH_SIZE)
        data.prepare_data()
        data.setup("fit")
        normalize = transforms.Normalize(data.mean, data.std)
        dataset = reference(arguments.root, transform=transforms.Compose([transforms.ToTensor(), normalize]))
        for workers in WORKERS:
            our_rates, their_rates = compare(
                partial(ours, data), partial(torchvisions, dataset, workers), arguments.repeats
            )
            times = statistics.median(our_rates) / statistics.median(their_rates)
            pairs = list(map(truediv, our_rates, their_rates))
            spread = f"({min(pairs):.1f}-{max(pairs):.1f})"
            print(
                f"{data.name:>10} {workers:>8}  {describe(our_rates):<26} {describe(their_rates):<26} {times:.1f} "
                f"{spread}"
            )
            figures[f"{data.name}_over_{workers}_workers"] = round(times, 2)
            if workers == 0:
                figures[f"{data.name}_images_per_second"] = round(statistics.median(our_rates))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
