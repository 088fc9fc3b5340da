"""Trains one network of a reproduction, with what it takes to go on after an interruption."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint

from primenet_lightning.callbacks import CapsuleLossCurves, GracefulStop, LastCheckpoint
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.training.checkpoints import AtomicCheckpointIO, BestCheckpoint

BINS = 200
"""Points of a curve by step."""


class Notes(Checkpoint):
    """Notes what a training says of itself; saved with the last checkpoint, so that it survives an interruption.

    A `Checkpoint`, since Lightning runs those after the model's own hooks, which log what is noted here.

    Args:
        on_epoch: Called with the number of epochs done and the seconds they took.

    Attributes:
        curves: One value an epoch.
        losses: By training batch, nats, by name.
        routes: By training batch, index of the routed capsule; of the first block.
        seconds: Of training, without validation.
    """

    def __init__(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        self.on_epoch = on_epoch
        self.curves: dict[str, list[float]] = {"train_accuracy": [], "train_loss": [], "validation_accuracy": []}
        self.losses: dict[str, list[float]] = {}
        self.routes: list[int] = []
        self.seconds = 0.0
        self._epoch_losses: list[float] = []
        self._clock = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time, the losses, and where it was routed."""
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        if "losses" not in outputs:
            self._epoch_losses.append(float(outputs["loss"]))
            return
        for name, loss in outputs["losses"].items():
            self.losses.setdefault(name, []).append(loss)
        self._epoch_losses.append(outputs["losses"]["head"])
        self.routes += outputs["route"][:1]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note accuracies and the head's loss."""
        metrics = trainer.callback_metrics
        self.curves["train_accuracy"].append(100 * float(metrics["train/accuracy"]))
        self.curves["validation_accuracy"].append(100 * float(metrics["val/accuracy"]))
        self.curves["train_loss"].append(statistics.fmean(self._epoch_losses))
        self._epoch_losses = []
        if self.on_epoch is not None:
            self.on_epoch(len(self.curves["train_loss"]), self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """What there is."""
        kept = {"curves": self.curves, "losses": self.losses, "routes": self.routes, "seconds": self.seconds}
        return kept | {"epoch_losses": self._epoch_losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.curves, self.losses = state_dict["curves"], state_dict["losses"]
        self.routes, self.seconds = state_dict["routes"], state_dict["seconds"]
        self._epoch_losses = state_dict["epoch_losses"]


class _UndrawnCurves(CapsuleLossCurves):
    """Keeps `PrimeNet` from drawing a figure a training."""

    def _draw(self, trainer: Trainer) -> None:
        pass


def train(
    model: LightningModule,
    data: ImageDataModule,
    epochs: int,
    folder: Path,
    notes: Notes,
    callbacks: Sequence[Callback] = (),
    precision: str = "32-true",
    accelerator: str = "auto",
    resume_with: str | None = None,
) -> tuple[float, float]:
    """Train a model, choose its checkpoint on the validation split, and test that once.

    Args:
        model: A `PrimeNet` or a baseline; afterwards it has the weights of the best checkpoint.
        data: To train on.
        epochs: How many.
        folder: Where ``checkpoints/`` goes; a training that was interrupted goes on from ``last.ckpt``, which stays.
        notes: Taken on the way.
        callbacks: Further ones.
        precision: Of the Trainer.
        accelerator: Of the Trainer.
        resume_with: The command that goes on after an interruption, to be printed.

    Returns:
        Test and validation error in %, both of the checkpoint of least validation error, routed without labels.
    """
    best = BestCheckpoint(folder / "checkpoints")
    last = LastCheckpoint(folder / "checkpoints", every_n_train_steps=10**9)  # so, at the end of each epoch
    trainer = Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, _UndrawnCurves(), best, notes, last, GracefulStop(resume_with)],
    )
    trainer.fit(model, data, ckpt_path=str(last.path) if last.path.is_file() else None, weights_only=True)
    if not best.best_model_path:  # all epochs were done before, and the interruption came after them
        best.best_model_path = str(best.best)
    validation_error = 100 - max(notes.curves["validation_accuracy"])
    noted = notes.state_dict()
    trainer.test(model, data, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    notes.load_state_dict(noted)  # to test a checkpoint loads the callbacks' states of back then, too
    return float(trainer.callback_metrics["test/error"]), validation_error


def binned(values: Sequence[float], bins: int = BINS) -> list[float]:
    """Average a curve within bins of equal length, as nearly as that goes.

    Args:
        values: By step.
        bins: At most so many points are left.

    Returns:
        Means.

    Example:
        >>> binned([1.0, 3.0, 5.0, 7.0], bins=2)
        [2.0, 6.0]
    """
    parts = torch.tensor_split(torch.tensor(values, dtype=torch.float64), min(bins, len(values)))
    return [float(part.mean()) for part in parts]


def seed_all(seed: int) -> None:
    """Seed everything that is random in a part, in silence.

    Args:
        seed: Of Python's, numpy's and torch's generators.
    """
    seed_everything(seed, verbose=False)


def device_of(accelerator: str) -> torch.device:
    """Tell the device that a Trainer with this accelerator takes.

    Args:
        accelerator: As the Trainer's.

    Returns:
        The first device of its kind.
    """
    return Fabric(accelerator=accelerator, devices=1).device


def device_in_words(accelerator: str) -> str:
    """Say what numbers are measured on.

    Args:
        accelerator: As the Trainer's.

    Returns:
        The device, as ``"CPU, 2 threads, ..."``.
    """
    device = device_of(accelerator)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}{_processor()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f", {names[0]}" if names else ""
