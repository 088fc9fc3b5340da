"""Fit a model, choose its best weights on the validation split, and test those once."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, Timer

from primenet_lightning.nn.names import HEAD
from primenet_lightning.training.checkpoints import AtomicCheckpointIO


class NothingChosen(ValueError):
    """A fit has chosen no weights to test."""


@dataclass(frozen=True)
class Fitted:
    """What a fit came to.

    Attributes:
        test_error: In %, measured once, of the weights that were chosen.
        validation_error: In %, of the same weights; not a number where there are no validation images, and the weights
            are those of the last epoch.
        seconds: Of the fit, its validations included, its test not; where the Trainer has a `Timer`, by that, which
            counts all parts of a fit that was resumed.
    """

    test_error: float
    validation_error: float
    seconds: float


class BestWeights(Checkpoint):
    """Keeps in memory the weights of the first epoch of least validation error.

    It is a `Checkpoint` because Lightning runs those after the module, whose metrics it reads.

    Attributes:
        validation_error: In %, of those weights; infinite before the first validation has ended.
        weights: The model's ``state_dict`` of back then.

    Example:
        >>> best = BestWeights()
        >>> trainer = Trainer(callbacks=[best], logger=False)
        >>> best.validation_error
        inf
    """

    def __init__(self) -> None:
        self.validation_error = math.inf
        self.weights: dict[str, Any] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the epoch's weights if none were better; none of a model that is not complete.

        Args:
            trainer: Whose validation error counts.
            pl_module: Whose weights are copied.

        Raises:
            ValueError: If there was no validation to tell.
        """
        if not getattr(pl_module, "is_complete", True):
            return
        if "val/error" not in trainer.callback_metrics:
            raise ValueError(
                "there was no validation, by which the best weights are chosen; give the data module a "
                "validation_fraction above 0"
            )
        error = float(trainer.callback_metrics["val/error"])
        if error < self.validation_error:
            self.validation_error = error
            self.weights = copy.deepcopy(pl_module.state_dict())


class Notes(Checkpoint):
    """Notes what a fit says of itself; saved with the checkpoints, so that it survives an interruption.

    A `Checkpoint`, since Lightning runs those after the model's own hooks, which log what is noted here. A checkpoint
    that is only tested brings no notes along: they stay those of the fit.

    Args:
        on_epoch: Called with the number of epochs done and the seconds they took, after each.

    Attributes:
        curves: One value per epoch: ``"train_accuracy"`` and ``"validation_accuracy"`` in %, where the model logs them,
            and ``"train_loss"``, the head's in nats, averaged over the images.
        losses: By training batch, nats, by name.
        routes: By training batch, full names of the routed capsules, one per block; empty where there are none.
        seconds: Of training, without validation.

    Example:
        >>> notes = Notes(on_epoch=lambda epochs, seconds: print(f"{epochs} done after {seconds:.0f} s"))
        >>> notes.curves["train_loss"]
        []
    """

    def __init__(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        self.on_epoch = on_epoch
        self.curves: dict[str, list[float]] = {"train_accuracy": [], "train_loss": [], "validation_accuracy": []}
        self.losses: dict[str, list[float]] = {}
        self.routes: list[tuple[str, ...]] = []
        self.seconds = 0.0
        self._epoch_losses: list[float] = []
        self._epoch_images: list[int] = []
        self._clock = 0.0
        self._fitting = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what a checkpoint is opened for."""
        self._fitting = stage == "fit"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time, the losses, and where it was routed."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now
        for name, loss in outputs["losses"].items():
            self.losses.setdefault(name, []).append(loss)
        self._epoch_losses.append(outputs["losses"][HEAD])
        self._epoch_images.append(len(batch[1]))
        names = getattr(pl_module.network, "capsule_names", ())
        self.routes.append(tuple(block[index] for block, index in zip(names, outputs["route"], strict=False)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note accuracies and the head's loss."""
        for curve, metric in (("train_accuracy", "train/accuracy"), ("validation_accuracy", "val/accuracy")):
            if metric in trainer.callback_metrics:
                self.curves[curve].append(100 * float(trainer.callback_metrics[metric]))
        self.curves["train_loss"].append(_mean(self._epoch_losses, self._epoch_images))
        self._epoch_losses, self._epoch_images = [], []
        if self.on_epoch is not None:
            self.on_epoch(len(self.curves["train_loss"]), self.seconds)

    def state_dict(self) -> dict[str, Any]:
        """What has been noted so far."""
        return {
            "curves": self.curves,
            "losses": self.losses,
            "routes": self.routes,
            "seconds": self.seconds,
            "epoch_losses": self._epoch_losses,
            "epoch_images": self._epoch_images,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it, if the fit goes on."""
        if not self._fitting:
            return
        self.curves, self.losses = state_dict["curves"], state_dict["losses"]
        self.routes, self.seconds = state_dict["routes"], state_dict["seconds"]
        self._epoch_losses, self._epoch_images = state_dict["epoch_losses"], state_dict["epoch_images"]


def _mean(losses: Sequence[float], images: Sequence[int]) -> float:
    """The mean over images of losses that are means over batches; the last batch may be a short one."""
    weighted = [loss * count for loss, count in zip(losses, images, strict=True)]
    return math.fsum(weighted) / sum(images)


def fit_and_test(
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    best: ModelCheckpoint | BestWeights | None = None,
    resume_from: str | Path | None = None,
    weights_only: bool | None = True,
) -> Fitted:
    """Fit a model, choose its best weights on the validation split, and test those once.

    Where there are no validation images, the weights of the last epoch are tested.

    Args:
        trainer: Says how; ``best`` is one of its callbacks.
        model: Afterwards it has the weights that were tested.
        data: To train, validate and test on.
        best: Who chooses: a checkpoint callback on disk, `BestWeights` in memory, or None for the weights at the end.
        resume_from: A checkpoint to go on from; None begins anew.
        weights_only: Whether that checkpoint holds but tensors and numbers, as in ``Trainer.fit``.

    Returns:
        Its errors, and the time it took.

    Raises:
        NothingChosen: If there was no validation, no checkpoint was saved, or the Trainer leaves the test out; the
            model is trained all the same.

    Example:
        >>> import tempfile
        >>> from primenet_lightning.datamodules import DigitsDataModule
        >>> from primenet_lightning.models.linear_probe import LinearProbe
        >>> from torch.nn import Flatten
        >>> best = BestWeights()
        >>> with quietly():
        ...     trainer = quiet_trainer(epochs=2, callbacks=[best])
        ...     fitted = fit_and_test(trainer, LinearProbe(64, 10, Flatten()), DigitsDataModule(), best)
        >>> fitted.validation_error == best.validation_error
        True
    """
    # fit
    began = time.perf_counter()
    trainer.fit(model, datamodule=data, ckpt_path=resume_from, weights_only=weights_only)
    seconds = _seconds_of(trainer, time.perf_counter() - began)  # before the test, which loads the timer's state

    # choose
    if trainer.limit_test_batches == 0:
        raise NothingChosen("limit_test_batches=0 leaves the test out")
    validation_error, checkpoint = _choose(best, trainer, model)

    # test
    trainer.test(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    return Fitted(float(trainer.callback_metrics["test/error"]), validation_error, seconds)


def _seconds_of(trainer: Trainer, wall: float) -> float:
    """How long a fit took: by its timer, which knows of the parts before, or by the clock on the wall."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            return callback.time_elapsed("train")
    return wall


def _choose(
    best: ModelCheckpoint | BestWeights | None, trainer: Trainer, model: LightningModule
) -> tuple[float, str | None]:
    """The validation error of what is tested, and the checkpoint it is in; None: the model has it."""
    if isinstance(best, ModelCheckpoint):
        if best.best_model_path and best.best_model_score is not None:
            return float(best.best_model_score), best.best_model_path
        if best.best_model_path and best.monitor is None:  # the last weights: there are no validation images
            return math.nan, best.best_model_path
    elif best is not None:
        if best.weights:
            model.load_state_dict(best.weights)
            return best.validation_error, None
    elif "val/error" in trainer.callback_metrics:
        return float(trainer.callback_metrics["val/error"]), None
    if not getattr(model, "is_complete", True):
        raise NothingChosen("no best checkpoint was chosen, since the fit ended before the network was complete")
    raise NothingChosen("no best checkpoint was chosen, which takes a validation and checkpoints")


def quiet_trainer(
    epochs: int,
    callbacks: Sequence[Callback] = (),
    folder: str | Path | None = None,
    accelerator: str = "cpu",
    precision: str = "32-true",
    **options: Any,
) -> Trainer:
    """Make a Trainer on one device that prints nothing, draws no bar and writes what its callbacks write alone.

    Args:
        epochs: How many.
        callbacks: In their order; checkpoints are saved only by those among them.
        folder: Its ``default_root_dir``; None is the working directory.
        accelerator: Of the Trainer.
        precision: Of the Trainer.
        **options: Further ones of the Trainer.

    Returns:
        The Trainer.

    Example:
        >>> with quietly():
        ...     trainer = quiet_trainer(epochs=3, callbacks=[BestWeights()])
        >>> trainer.max_epochs, trainer.loggers
        (3, [])
    """
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    return Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        callbacks=list(callbacks),
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=saves,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Keep from the terminal which accelerators there are, and that a fit has ended: some fits come by the dozen."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
