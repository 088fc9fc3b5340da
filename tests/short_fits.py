"""What the tests of the systems beside PrimeNet share: short fits that crash and are resumed, or have two processes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny import Steps, TinyData, differences, make_trainer, state
from torch import nn

from primenet_lightning import EndToEnd
from primenet_lightning.callbacks import LastCheckpoint


class Crash(Callback):
    """Raises in the middle of an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, EndToEnd)
        *_, optimizer = pl_module.learner_optimizers.values()  # those of learners before it have stepped
        original: Any = optimizer.step

        def step() -> Any:
            if trainer.global_step == self.step:
                raise ZeroDivisionError
            return original()

        optimizer.step = step  # type: ignore[method-assign,assignment]


def fit(model: EndToEnd, folder: Path, callbacks: tuple[Callback, ...] = (), **options: Any) -> dict[str, Any]:
    """Two epochs of four batches; the last checkpoint."""
    last = LastCheckpoint(folder, 1)
    ckpt_path = options.pop("ckpt_path", None)
    options = {"max_epochs": 2, "enable_checkpointing": True} | options
    trainer = make_trainer(folder, [last, *callbacks], **options)
    torch.manual_seed(7)
    try:
        trainer.fit(model, TinyData(batch_size=20), ckpt_path=ckpt_path, weights_only=True)
    except ZeroDivisionError:
        torch.manual_seed(99)  # nobody has these random numbers again by accident
    checkpoint: dict[str, Any] = torch.load(last.path, weights_only=True)
    return checkpoint | {"path": None, "file": f"{last.path}"}


def resumed_differences(build: Any, folder: Path, steps: list[int], **options: Any) -> dict[int, list[str]]:
    """Where the last checkpoint of a run that crashed and was resumed differs from the unbroken run's."""
    whole = fit(build(), folder / "whole", **options)
    by_step = {}
    for step in steps:
        crashed = fit(build(), folder / f"{step}", (Crash(step),), **options)
        assert crashed["global_step"] == step
        resumed = fit(build(), folder / f"{step}", ckpt_path=crashed["file"], **options)
        by_step[step] = differences(whole, resumed | {"file": whole["file"]})
    return by_step


def trained(build: Any, folder: Path, devices: int = 1) -> dict[str, Any]:
    """Two epochs in double precision, on as many processes as there are."""
    steps = Steps()
    options: dict[str, Any] = dict(devices=devices, strategy="ddp") if devices > 1 else {}
    model = build()
    trainer = make_trainer(folder, [steps], precision="64-true", max_epochs=2, **options)
    trainer.fit(model, TinyData(batch_size=20))
    return {"state": state(model), "losses": [output["losses"]["head"] for output in steps.outputs]}


def without_norms(module: nn.Module) -> nn.Module:
    """Take batch norms out: then the training does not depend on how a batch is shared out."""
    for name, part in list(module.named_children()):
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        else:
            without_norms(part)
    return module
