"""What the default callbacks cost: the time inside their hooks over the whole of a fit, on real MNIST.

    python benchmarks/callbacks.py [--root DIR] [--batches N] [--epochs N]

One fit of `compact` with the command line's default callbacks and loggers (W&B offline, CSV), validation included.
Lightning's own profiler times each hook of each callback, so that the noise of the machine falls on both sides of the
ratio: the fit's seconds over the same seconds without those hooks, the checkpoints' not counted. The seconds that
t-SNE takes are told apart, and none of them lies in a training step; an embedding comes every fifth epoch and at the
end, so here, in a short fit, it weighs more than in a long one. The last line is one JSON object; the exit status is 1
if the ratio without t-SNE is above 1.05.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

import torch
import wandb
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from timing import Bound, conclude

from primenet_lightning import PrimeNet
from primenet_lightning.callbacks import ResumableCSVLogger
from primenet_lightning.callbacks.wandb_log import PatientWandbLogger
from primenet_lightning.commands.attached import LOOKING
from primenet_lightning.datamodules import MNISTDataModule

BOUNDS = [Bound("callbacks_over_none", "at most", 1.05)]


def measure(root: str | None, batches: int, epochs: int) -> dict[str, float]:
    """Fit once and add up the hooks.

    Args:
        root: Folder of MNIST.
        batches: Training batches an epoch.
        epochs: Epochs.

    Returns:
        ``fit_s``; seconds by callback; ``callbacks_over_none``, without t-SNE; ``with_tsne_over_none``;
        ``tsne_in_step_s``, t-SNE's seconds in the hooks of training batches.
    """
    data = MNISTDataModule(root=root)
    torch.manual_seed(0)
    model = PrimeNet(data.in_channels, data.image_size, data.num_classes)
    profiler = SimpleProfiler()
    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[Callback] = [kind(folder=Path(folder)) for kind in LOOKING]
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            limit_train_batches=batches,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            profiler=profiler,
            logger=[
                PatientWandbLogger(save_dir=folder, mode="offline", project="benchmark"),
                ResumableCSVLogger(folder),
            ],
            callbacks=callbacks,
        )
        begun = time.perf_counter()
        trainer.fit(model, data)
        fit = time.perf_counter() - begun
        wandb.finish()
    # add up by callback
    seconds = dict.fromkeys((kind.__name__ for kind in LOOKING), 0.0)
    in_step = 0.0
    for action, durations in profiler.recorded_durations.items():
        name = re.match(r"\[Callback\](\w+)[.{]", action)
        if name is not None and name[1] in seconds:
            seconds[name[1]] += sum(durations)
            if name[1] == "FeatureTSNE" and "train_batch" in action:
                in_step += sum(durations)
    # compare
    tsne = seconds["FeatureTSNE"]
    others = sum(seconds.values()) - tsne
    without = fit - others - tsne
    figures = {"fit_s": round(fit, 2)}
    for kind, value in seconds.items():
        figures[f"{kind}_s"] = round(value, 3)
    figures["callbacks_over_none"] = round((without + others) / without, 4)
    figures["with_tsne_over_none"] = round(fit / without, 4)
    figures["tsne_in_step_s"] = round(in_step, 4)
    return figures


def main() -> None:
    """Measure, print, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=None, help="Folder of MNIST (default: PRIMENET_DATA, else data).")
    parser.add_argument("--batches", type=int, default=270, help="Training batches an epoch; 270 are all.")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    figures = measure(options.root, options.batches, options.epochs)
    for name, value in figures.items():
        print(f"{name:24} {value}")
    conclude(figures, BOUNDS)


if __name__ == "__main__":
    main()
