"""Whole trainings on a GPU, that stop after an epoch when the minutes are over, and go on at the next call."""

import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import checkout
import yaml
from gpu_place import UNFINISHED, Figures, Place
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from primenet_lightning import CutNet, LocalLearner, PrimeNet
from primenet_lightning.callbacks import LastCheckpoint
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.training.fitting import quiet_trainer, quietly

CONFIGS = Path(checkout.__file__).resolve().parents[1] / "configs"
SPARE = 20.0
"""Seconds that a test, and writing, may take."""


class Recipe(NamedTuple):
    """A training as one of ``configs`` has it.

    Attributes:
        model: Its class.
        options: Of the model.
        data: The data module.
        epochs: How many.
        precision: Of the Trainer.
        callbacks: Of the Trainer.
    """

    model: type[LocalLearner]
    options: dict[str, Any]
    data: ImageDataModule
    epochs: int
    precision: str
    callbacks: list[Callback]


class StopInTime(Callback):
    """Stops after an epoch if the next one would not end in time, and counts the seconds of all calls together.

    Args:
        place: Says how much time is left.

    Attributes:
        seconds: Of training and validation so far.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.seconds = 0.0
        self._longest = 0.0
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch, and stop if there is no time for another one."""
        lasted = time.perf_counter() - self._start
        self.seconds += lasted
        self._longest = max(self._longest, lasted)
        spare = 0.0 if self.place.is_tiny else SPARE
        if self.place.seconds_left() < 1.5 * self._longest + spare:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """The seconds."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self.seconds = state_dict["seconds"]


def made(entry: dict[str, Any], **given: Any) -> Any:
    """Make what a ``class_path`` with its ``init_args`` names."""
    module, _, name = entry["class_path"].rpartition(".")
    return getattr(import_module(module), name)(**entry.get("init_args", {}), **given)


def factory(entry: dict[str, Any]) -> Any:
    """The same of what still waits for an argument: an optimizer for its parameters."""
    module, _, name = entry["class_path"].rpartition(".")
    return partial(getattr(import_module(module), name), **entry.get("init_args", {}))


def recipe(file: str, place: Place, seed: int = 0) -> Recipe:
    """Read a training from ``configs``.

    Args:
        file: In that folder.
        place: Whose sizes and data are taken.
        seed: Of the data module.

    Returns:
        The recipe.
    """
    config = yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8"))
    options = dict(config["model"].get("init_args", {}))
    for name in ("optimizer", "capsule_optimizer", "head_optimizer"):
        if name in options:
            options[name] = factory(options[name])
    # the model; the command knows short names beside class paths
    kind: type[LocalLearner] = PrimeNet
    if config["model"].get("class_path") == "whitened":
        kind = CutNet
        options["backbone"] = "whitened"
    # the data
    entry = config["data"]
    of_data = dict(entry.get("init_args", {}))
    if "augmentation" in of_data:
        of_data["augmentation"] = made(of_data["augmentation"])
    limit = place.sizes.fit_limit
    if limit is not None:
        of_data |= {"limit_train": limit, "batch_size": 10}
    data = made(
        {"class_path": entry["class_path"], "init_args": of_data},
        root=place.data,
        seed=seed,
        download=False,
        verify=not place.is_tiny,
    )
    # the Trainer
    trainer = config["trainer"]
    callbacks = [made(callback) for callback in trainer.get("callbacks", [])]
    return Recipe(kind, options, data, trainer["max_epochs"], str(trainer.get("precision", "32-true")), callbacks)


def trained(name: str, what: Recipe, place: Place, seed: int = 0) -> Figures:
    """Train as far as the minutes go; test what is trained to its end, and validate what is not.

    Args:
        name: Of the folder of its checkpoint.
        what: To be trained.
        place: Where.
        seed: Of everything random.

    Returns:
        Errors of the test in % and seconds; or, if it has to go on at another call, `UNFINISHED` and the errors of the
        validation, where there are validation images.
    """
    seed_everything(seed, verbose=False)
    data = what.data
    model = what.model(**_images_of(data), **what.options)
    stop = StopInTime(place)
    last = LastCheckpoint(place.out / "checkpoints" / name, every_n_train_steps=10**9)
    resume_from = last.path if last.path.exists() else None
    with quietly():
        trainer = _trainer(what, place, [*what.callbacks, stop, last])
        trainer.fit(model, datamodule=data, ckpt_path=resume_from, weights_only=True)
        epochs = trainer.current_epoch
        is_over = epochs >= what.epochs
        if is_over:
            trainer.test(model, datamodule=data, verbose=False)
        elif data.has_validation:
            trainer.validate(model, datamodule=data, verbose=False)
    figures: Figures = {} if is_over else {UNFINISHED: True}
    for key, value in trainer.callback_metrics.items():
        if key.startswith("test/error" if is_over else "val/error"):
            figures[key.replace("/", "_", 1)] = float(value)
    return {**figures, "epochs": epochs, "seconds_of_fit": stop.seconds, "seconds_per_epoch": stop.seconds / epochs}


def _images_of(data: ImageDataModule) -> dict[str, Any]:
    """What a model is told of its images."""
    return {"in_channels": data.in_channels, "image_size": data.image_size, "num_classes": data.num_classes}


def _trainer(what: Recipe, place: Place, callbacks: Sequence[Callback]) -> Trainer:
    return quiet_trainer(
        what.epochs,
        callbacks,
        place.out,
        accelerator=place.accelerator,
        precision=what.precision,
        check_val_every_n_epoch=what.epochs,
    )


def mnist(place: Place) -> Figures:
    """`compact` on MNIST as in ``configs/mnist.yaml``."""
    return trained("mnist", recipe("mnist.yaml", place)._replace(epochs=place.sizes.mnist_epochs), place)


def fast_cifar10(seed: int, local: bool, place: Place) -> Figures:
    """The fast recipe, or its end-to-end twin."""
    what = recipe("fast/cifar10.yaml", place, seed)
    options = what.options | {"local": local}
    if place.sizes.fast_widths is not None:
        options["backbone_options"] = {"widths": list(place.sizes.fast_widths)}
    what = what._replace(options=options, epochs=place.sizes.fast_epochs or what.epochs)
    side = "local" if local else "twin"
    return trained(f"fast_cifar10_{side}_{seed}", what, place, seed)


def vgg8b(place: Place) -> Figures:
    """Vgg8b taught by predsim."""
    what = recipe("deep/vgg8b.yaml", place)
    options = dict(what.options)
    if place.sizes.vgg_channels is not None:
        options |= {"channels": place.sizes.vgg_channels, "head_channels": 8}
    return trained("vgg8b", what._replace(options=options, epochs=place.sizes.vgg_epochs or what.epochs), place)
