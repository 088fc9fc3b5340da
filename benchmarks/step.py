"""Where a training step's time goes, and what Lightning and logging add to the same step in a bare loop.

    python benchmarks/step.py [--root DIR] [--steps N] [--only NAME ...] [--clock wall|cpu] [--trainer KIND]

Both sides train equal networks on equal batches, alternating step by step, so that what else the machine does hits
both. The bare loop is `StageRunner`, which the Trainer's step runs, too. The Trainer has the command line's default
callbacks and loggers: loss curves, progress bar (drawn to a terminal that goes nowhere), W&B offline, CSV. Its step
lasts from the end of one bare step to the beginning of the next, batch fetching, callbacks and logging included. Steps
at which the curves are logged, one in 50, are taken apart and weighed in as one in 50. Validation and checkpoints are
off. What is not in a step stands beside it: drawing the bar, which a thread does beside both sides, and the Trainer's
work between two epochs. ``--trainer barebones`` takes Lightning's own switch instead: no loggers, no curves, no bar.
``--trainer minimal`` runs the bare step in a LightningModule that does nothing else: what no model can be without.
``--clock cpu`` counts processor time of the thread that trains, torch's one thread, for a machine that others use, too.
The last line is one JSON object; the command fails if Lightning adds more than is allowed.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import WandbLogger
from timing import CLOCKS, Bound, conclude, machine
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from training import adams

import primenet_lightning
from primenet_lightning import PrimeNet, PrimeNetwork, StageRunner
from primenet_lightning.callbacks import CapsuleLossCurves, LossProgressBar, ResumableCSVLogger
from primenet_lightning.datamodules import DigitsDataModule, ImageDataModule, MNISTDataModule

LOG_EVERY = 50
WARM_UP = 20
BOUNDS = [
    Bound("mnist_lightning_over_bare", "at most", 1.03),
    Bound("digits_lightning_over_bare", "at most", 1.08),
]
clock = CLOCKS["wall"]
PARTS = ("data", "forward", "backward", "optimizer")


class Laps:
    """Splits a step into parts by a clock that is read wherever one ends.

    Attributes:
        seconds: So far, by part.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = clock()

    def end(self, part: str) -> None:
        """Count the time since the last end as this part's."""
        now = clock()
        self.seconds[part] += now - self._last
        self._last = now


class Alternate(Callback):
    """After each step of the Trainer, do one of a bare loop, and time both.

    Args:
        data: Gives the bare loop its batches.
        model: The twin that the bare loop trains.
        curves: The Trainer's, which comes before this callback and tells when it logs.
    """

    def __init__(self, data: ImageDataModule, model: PrimeNet, curves: CapsuleLossCurves) -> None:
        self.data = data
        self.curves = curves
        optimizer = adams(model.network)
        optimizer.register_step_pre_hook(lambda *_: self.laps.end("forward"))
        self.runner = StageRunner(model.network, optimizer, backward=self._backward)
        self.laps = Laps()
        self.bare: list[float] = []
        self.usual: list[float] = []
        self.logged: list[float] = []
        self.parts: list[dict[str, float]] = []
        self.between_epochs: list[float] = []
        self.drawing = 0.0
        self._batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._points = 0
        self._end = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the bare loop the batches that the Trainer is about to get."""
        loader: DataLoader[tuple[Tensor, Tensor]] = self.data.train_dataloader()
        loader.sampler.set_epoch(trainer.current_epoch)  # type: ignore[attr-defined]
        self._batches = iter(loader)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the time between two epochs."""
        if batch_idx == 0 and self._end:
            self.between_epochs.append(clock() - self._end)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the Trainer's time, then do the bare step."""
        start = clock()
        self._bare_step()
        end = clock()
        if batch_idx:  # what is before an epoch's first batch is no step's
            self.bare.append(end - start)
            logged = len(self.curves.train) > self._points
            (self.logged if logged else self.usual).append((start - self._end) - (end - start))
        self._points = len(self.curves.train)
        self._end = clock()

    def _bare_step(self) -> None:
        self.laps = Laps()
        images, target = next(self._batches)
        images = self.data.normalize(images)
        self.laps.end("data")
        self.runner.step(images, target)
        self.laps.end("optimizer")
        self.parts.append(self.laps.seconds)

    def _backward(self, loss: Tensor) -> None:
        self.laps.end("forward")
        torch.autograd.backward(loss)
        self.laps.end("backward")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time the drawing of the bar, where there is one."""
        bar = trainer.progress_bar_callback
        if bar is None:
            return
        assert isinstance(bar, LossProgressBar)
        assert bar.progress is not None
        times = []
        for _ in range(20):
            start = clock()
            bar.progress.refresh()
            times.append(clock() - start)
        self.drawing = statistics.median(times) * bar.refresh_rate


class Minimal(LightningModule):
    """The bare step in a LightningModule that does nothing else.

    Args:
        network: To be trained.
    """

    def __init__(self, network: PrimeNetwork) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.runner = StageRunner(network)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Learn from a batch."""
        self.runner.run(*batch)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> Optimizer:
        """The paper's Adam for every learner."""
        return adams(self.network)


def measure(data: ImageDataModule, steps: int, kind: str = "command") -> dict[str, float]:
    """Train both sides in turns.

    Args:
        data: The data; its default batch size.
        steps: Steps a side.
        kind: Of the Trainer, and of what it trains; see the top of this file.

    Returns:
        ``bare_ms`` and ``overhead_ms`` a step, medians; ``low`` and ``high``, the overhead's quartiles; the ratio
        ``lightning_over_bare``; ``drawing_share`` of one core's time; ``between_epochs_ms``; of the bare step
        ``data_ms`` to ``optimizer_ms``, and of the overhead ``logging_ms``, the steps at which curves are logged.
    """
    data.prepare_data()
    data.setup("fit")
    alternate = train(data, steps, kind)
    # the Trainer's step, and what it adds
    usual = statistics.median(alternate.usual[WARM_UP:])
    logged = statistics.median(alternate.logged) if alternate.logged else usual
    overhead = usual + (logged - usual) / LOG_EVERY
    low, _, high = statistics.quantiles(alternate.usual[WARM_UP:], n=4)
    # the bare step, and its parts
    bare = statistics.median(alternate.bare[WARM_UP:])
    costs = {
        "lightning_over_bare": round(1 + overhead / bare, 4),
        "bare_ms": round(1000 * bare, 3),
        "overhead_ms": round(1000 * overhead, 3),
        "low_ms": round(1000 * low, 3),
        "high_ms": round(1000 * high, 3),
        "drawing_share": round(alternate.drawing, 4),
        "between_epochs_ms": round(1000 * statistics.median(alternate.between_epochs or [0.0]), 2),
        "logging_ms": round(1000 * (logged - usual) / LOG_EVERY, 3),
    }
    for part in PARTS:
        seconds = [step[part] for step in alternate.parts[WARM_UP:]]
        costs[f"{part}_ms"] = round(1000 * statistics.median(seconds), 3)
    return costs


def train(data: ImageDataModule, steps: int, kind: str = "command") -> Alternate:
    """Fit with the command's default callbacks and loggers, or with none; a bare step after each of the Trainer's.

    Returns:
        The callback, with all times.
    """
    curves = CapsuleLossCurves()
    alternate = Alternate(data, build(data), curves)
    if kind != "command":
        model = Minimal(build(data).network) if kind == "minimal" else build(data)
        Trainer(accelerator="cpu", max_steps=steps, barebones=True, callbacks=[alternate]).fit(model, data)
        return alternate
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=-1,
            max_steps=steps,
            log_every_n_steps=LOG_EVERY,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
            logger=[WandbLogger(save_dir=folder, mode="offline", project="benchmark"), ResumableCSVLogger(folder)],
            callbacks=[curves, LossProgressBar(console_kwargs={"file": nowhere, "force_terminal": True}), alternate],
        )
        trainer.fit(build(data), data)
        wandb.finish()
    return alternate


def build(data: ImageDataModule) -> PrimeNet:
    """Build the model, the same one at each call."""
    torch.manual_seed(0)
    return PrimeNet(data.in_channels, data.image_size, data.num_classes)


def main() -> None:
    """Measure MNIST and digits, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=None, help="Folder of MNIST (default: PRIMENET_DATA, else data).")
    parser.add_argument("--steps", type=int, default=600, help="Steps a side and data set.")
    parser.add_argument("--only", nargs="+", choices=("digits", "mnist"), default=("digits", "mnist"))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--trainer", choices=("command", "barebones", "minimal"), default="command")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    if options.clock == "cpu":
        torch.set_num_threads(1)
    figures: dict[str, float | str] = {
        "device": machine(),
        "package": str(Path(primenet_lightning.__file__).parents[1]),
    }
    for name in options.only:
        data = MNISTDataModule(root=options.root) if name == "mnist" else DigitsDataModule()
        costs = measure(data, options.steps, options.trainer)
        for key, value in costs.items():
            figures[f"{name}_{key}"] = value
        parts = ", ".join(f"{part} {costs[f'{part}_ms']:.2f}" for part in PARTS)
        print(
            f"{name:8} bare {costs['bare_ms']:.2f} ms ({parts}), Lightning adds {costs['overhead_ms']:.3f} ms "
            f"(quartiles {costs['low_ms']:.3f} to {costs['high_ms']:.3f}), of which logging {costs['logging_ms']:.3f}: "
            f"ratio {costs['lightning_over_bare']:.4f}; drawing takes {100 * costs['drawing_share']:.2f} % of one "
            f"core, and {costs['between_epochs_ms']:.1f} ms pass between epochs"
        )
    conclude(figures, BOUNDS)


if __name__ == "__main__":
    main()
