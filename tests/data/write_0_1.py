"""Writes the other files of this folder whose names end in 0.1, by the code of version 0.1.

From a checkout of that version, which has this file beside it:
``PYTHONPATH=.:tests OMP_NUM_THREADS=1 WANDB_MODE=disabled python write_0_1.py FOLDER``.
"""

import hashlib
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from primenet_lightning.cli import main
from tiny import SMALL, TinyData, make_trainer, state

from primenet_lightning import PaperAdam, PrimeNet
from primenet_lightning.baselines import MultiExit, OneScale
from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.datamodules import Augment

SAVED_AFTER = 12
"""Batches: in the middle of the second of two epochs of eight, and of a window of three."""

ADAM = partial(PaperAdam, lr=2e-3, eps=1e-3)
"""Its small steps do not grow from the last bit of a gradient, which differs between makes of processors."""

PRIMENETS = {
    "checkpoint-0.1": dict(
        depth=2,
        router="commit",
        router_options={"warm_up": 4},
        schedule="one_cycle",
        backward="capsule",
        overlap=True,
        accumulate_grad_batches=3,
        gradient_clip_val=0.5,
    ),
    "immediate-0.1": dict(router="gate", update="immediate"),
    "twin-0.1": dict(depth=2, local=False, router="concatenate", backward="fused", accumulate_grad_batches=3),
}
BASELINES = {
    "baseline-0.1": (OneScale, dict(channels=2)),
    "exits-0.1": (MultiExit, dict(exits=2, layers=1, channels=4, growth=2, exit_channels=4)),
}
RUN = [
    *("--model.kernel_sizes=[3,5]", "--model.channels=4", "--model.projection_channels=3", "--model.head_channels=5"),
    *("--model.capsule_optimizer=primenet_lightning.PaperAdam", "--model.capsule_optimizer.eps=1e-3"),
    *("--model.capsule_optimizer.lr=2e-3", "--model.head_optimizer=primenet_lightning.PaperAdam"),
    *("--model.head_optimizer.lr=2e-3", "--model.head_optimizer.eps=1e-3"),
    *("--model.update=immediate", "--model.overlap=false", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
    *("--trainer.limit_train_batches=6", "--trainer.enable_progress_bar=false", "--every_n_train_steps=1"),
    *("--figures=false", "--seed_everything=3"),
]


class InMidEpoch(LastCheckpoint):
    """Saves once, after so many batches."""

    def on_train_start(self, trainer, pl_module):
        self.batches = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches += 1
        if self.batches == SAVED_AFTER:
            self.save(trainer)

    def on_validation_end(self, trainer, pl_module):
        pass

    def on_train_epoch_end(self, trainer, pl_module):
        pass


def fixed_images():
    return torch.sin(torch.arange(6.0 * 2 * 8 * 8)).reshape(6, 2, 8, 8)


def answers(path, kind):
    model = kind.load_from_checkpoint(path, weights_only=True).eval()
    with torch.inference_mode():
        return model(fixed_images()).tolist()


def sha256(weights):
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


def fit(folder, model):
    """Two epochs; a checkpoint is left in the folder."""
    middle = InMidEpoch(folder)
    torch.manual_seed(7)
    trainer = make_trainer(folder, [middle], enable_checkpointing=True, max_epochs=2)
    trainer.fit(model, TinyData(batch_size=10, augmentation=Augment(crop=1, flip=True)))
    logged = {}
    for name, value in trainer.callback_metrics.items():
        if name.startswith(("train", "val")):
            logged[name] = value.item()
    return middle.path, logged


def build(kind, **options):
    torch.manual_seed(3)
    return kind(**options)


def killed_run(run):
    """A run of the command that was killed in its second epoch: its options and its last checkpoint."""
    original = LastCheckpoint.on_train_batch_end

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        original(self, trainer, pl_module, outputs, batch, batch_idx)
        if trainer.current_epoch == 1 and batch_idx == 2:
            os._exit(0)

    if (child := os.fork()) == 0:
        LastCheckpoint.on_train_batch_end = on_train_batch_end
        main(["fit", f"--run={run}", *RUN])
    assert os.waitpid(child, 0)[1] == 0


def write(target):
    expected = {}
    shapes = {name: SMALL[name] for name in ("in_channels", "image_size", "num_classes")}
    models = {name: (PrimeNet, SMALL | options) for name, options in PRIMENETS.items()}
    models |= {name: (kind, shapes | options) for name, (kind, options) in BASELINES.items()}
    ends = {}
    for name, (kind, options) in models.items():
        with TemporaryDirectory() as folder:
            optimizers = ("capsule_optimizer", "head_optimizer") if kind is PrimeNet else ("optimizer",)
            model = build(kind, **options, **dict.fromkeys(optimizers, ADAM))
            path, logged = fit(Path(folder), model)
            weights = state(model)
            shutil.copy(path, target / f"{name}.ckpt")
            expected[name] = dict(options=options, logits=answers(path, kind), logged=logged, sha256=sha256(weights))
            if kind is PrimeNet:
                ends[name] = weights
    run = Path("/tmp/run-0.1")
    shutil.rmtree(run, ignore_errors=True)
    killed_run(run)
    shutil.copy(run / "config.yaml", target / "config-0.1.yaml")
    shutil.copy(run / "checkpoints/last.ckpt", target / "run-0.1.ckpt")
    # go on with these two files alone
    shutil.rmtree(run)
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(target / "config-0.1.yaml", run / "config.yaml")
    shutil.copy(target / "run-0.1.ckpt", run / "checkpoints/last.ckpt")
    assert main(["fit", f"--resume={run}"]) == 0
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    ends["run-0.1"] = {name.removeprefix("network."): value for name, value in weights.items()}
    summary = json.loads((run / "summary.json").read_text())
    results = {name: summary[name] for name in ("test_error", "validation_error", "epochs", "routing")}
    expected["run-0.1"] = results | dict(sha256=sha256(ends["run-0.1"]))
    shutil.rmtree(run)
    torch.save(ends, target / "ends-0.1.pt")
    (target / "expected-0.1.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(Path(sys.argv[1]))
