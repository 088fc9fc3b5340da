"""What Lightning and logging cost: a training step in ``Trainer.fit`` over the same step in a bare loop.

    python benchmarks/step.py [--root DIR] [--rounds N] [--only NAME ...]

Both sides train the same network on the same batches, alternating: an epoch of 100 steps under the Trainer with the
command line's default callbacks and loggers (progress bar drawn to a terminal that goes nowhere, W&B offline, CSV,
loss curves), then the same steps by hand inside ``on_train_epoch_end``, and so on. A step is the time from one batch
to the next, its fetching and logging included. Validation and checkpoints are off. The last line is one JSON object.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torch.utils.data import DataLoader

from primenet_lightning import CompositeOptimizer, PaperAdam, PrimeNet
from primenet_lightning.callbacks import LossProgressBar
from primenet_lightning.callbacks.csv_log import ResumableCSVLogger
from primenet_lightning.datamodules import DigitsDataModule, ImageDataModule, MNISTDataModule

STEPS = 100
REQUIRED = {"mnist": 1.01, "digits": 1.05}


class Alternate(Callback):
    """Time the Trainer's epochs, and after each as many steps of a bare loop.

    Args:
        data: Gives the bare loop its batches.
        model: Its twin, trained by the bare loop.
    """

    def __init__(self, data: ImageDataModule, model: PrimeNet) -> None:
        self.data = data
        self.network = model.network
        self.optimizer = CompositeOptimizer(
            {name: PaperAdam(parameters) for name, parameters in self.network.learners().items()}
        )
        self.lightning: list[float] = []
        self.bare: list[float] = []
        self._first = self._last = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the clock."""
        self._last = time.perf_counter()
        if batch_idx == 0:
            self._first = self._last

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the epoch's mean, then run the other side."""
        self.lightning.append((self._last - self._first) / (STEPS - 1))
        self.bare.append(self._bare_epoch(trainer.current_epoch))

    def _bare_epoch(self, epoch: int) -> float:
        times = []
        for images, target in self._batches(epoch):
            times.append(time.perf_counter())
            for stage in self.network.stages(self.data.normalize(images), target):
                torch.autograd.backward(list(stage.losses.values()))
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (times[-1] - times[0]) / (STEPS - 1)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[tuple[Tensor, Tensor]] = self.data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return itertools.islice(iter(loader), STEPS)


def measure(data: ImageDataModule, rounds: int) -> tuple[list[float], list[float]]:
    """Train both sides in turns.

    Args:
        data: A data module with at least 100 batches an epoch.
        rounds: Epochs each, of which the first is warm-up.

    Returns:
        Seconds a step, an entry a round: under Lightning and bare.
    """
    data.prepare_data()
    data.setup("fit")

    def model() -> PrimeNet:
        torch.manual_seed(0)
        return PrimeNet(data.in_channels, data.image_size, data.num_classes)

    alternate = Alternate(data, model())
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=rounds,
            limit_train_batches=STEPS,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
            logger=[
                WandbLogger(save_dir=folder, mode="offline", project="benchmark"),
                ResumableCSVLogger(folder),
            ],
            callbacks=[
                alternate,
                LossProgressBar(console_kwargs={"file": nowhere, "force_terminal": True}),
            ],
        )
        trainer.fit(model(), data)
        import wandb

        wandb.finish()
    return alternate.lightning[1:], alternate.bare[1:]


def main() -> None:
    """Measure MNIST and digits, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=None, help="Folder of MNIST (default: PRIMENET_DATA, else data).")
    parser.add_argument("--rounds", type=int, default=9, help="Rounds of 100 steps a side; the first is warm-up.")
    parser.add_argument("--only", nargs="+", choices=sorted(REQUIRED), default=sorted(REQUIRED))
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for name in options.only:
        data: ImageDataModule = MNISTDataModule(root=options.root) if name == "mnist" else ManyDigits()
        lightning, bare = measure(data, options.rounds)
        ratios = [a / b for a, b in zip(lightning, bare, strict=True)]
        figures[f"{name}_lightning_over_bare"] = round(statistics.median(ratios), 4)
        figures[f"{name}_bare_ms"] = round(1000 * statistics.median(bare), 3)
        figures[f"{name}_overhead_ms"] = round(
            1000 * statistics.median(a - b for a, b in zip(lightning, bare, strict=True)), 3
        )
        print(
            f"{name:8} bare {1000 * statistics.median(bare):8.3f} ms   lightning "
            f"{1000 * statistics.median(lightning):8.3f} ms   ratio {statistics.median(ratios):.4f} "
            f"({min(ratios):.4f} to {max(ratios):.4f}), at most {REQUIRED[name]} wanted"
        )
    print(json.dumps(figures))


class ManyDigits(DigitsDataModule):
    """The digits several times over, so that an epoch has 100 batches of the default size."""

    def load_arrays(self) -> Any:
        """The arrays of the digits, the training split eight times."""
        images, labels, test_images, test_labels = (torch.as_tensor(array) for array in super().load_arrays())
        return images.repeat(8, *[1] * (images.dim() - 1)), labels.repeat(8), test_images, test_labels


if __name__ == "__main__":
    main()
