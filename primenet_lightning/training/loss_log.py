"""LossLog: every local loss, the head's, their total, and the accuracies, to every logger, as numbers."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer

from primenet_lightning.nn.names import HEAD
from primenet_lightning.training.fit_state import FitState

Point = tuple[int, dict[str, float]]
"""Training batches done so far, and values by learner."""

TRAIN, VALIDATION = "train/", "val/"


@runtime_checkable
class _CountsAnswers(Protocol):
    """A module that knows the accuracies of its learners, and which of them were pruned."""

    def train_results(self) -> Mapping[str, Any]: ...

    def without_pruned(self, values: Mapping[str, Any]) -> Mapping[str, Any]: ...


class RunningMean:
    """The mean loss of each learner over some batches; its sums are plain numbers, which a checkpoint can hold.

    Attributes:
        sums: By learner.
        count: Batches in them.

    Example:
        >>> mean = RunningMean()
        >>> mean.add({"head": 3.0}, 1)
        >>> mean.add({"head": 1.0}, 1)
        >>> mean.means()
        {'head': 2.0}
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, sums: Mapping[str, float], count: int) -> None:
        """Take batches in.

        Args:
            sums: Of their losses, by learner.
            count: How many they are.
        """
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += count

    def means(self) -> dict[str, float]:
        """The sums over the number of batches."""
        return {name: total / self.count for name, total in self.sums.items()}

    def clear(self) -> None:
        """Forget all batches."""
        self.sums, self.count = {}, 0


class LossLog(FitState):
    """Log the learners' losses, and remember losses and accuracies by batch and by epoch.

    The losses come as numbers from the module's ``training_step``, and are averaged over the batches since the last
    point: ``self.log`` at every step would cost more than a small network's whole step. Points go to every logger as
    ``train/loss/<name>``, each ``log_every_n_steps`` batches and at the end of each epoch, on Lightning's own step
    axis; the mean of each epoch as ``train/epoch_loss/<name>``. Validation losses and all accuracies are logged by the
    module and taken from there. `LocalLearner` attaches this callback itself, unless the Trainer has one already, such
    as `primenet_lightning.callbacks.CapsuleLossCurves`, which draws the curves, too.

    Attributes:
        train: The points so far.
        validation: The losses of each validation, where there are any.
        epochs: The mean losses of each epoch.
        train_accuracy: Each learner's accuracy in the training of each epoch, in [0, 1].
        validation_accuracy: And in each validation.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LossLog()], logger=False, enable_checkpointing=False)
    """

    SERIES = ("train", "validation", "epochs", "train_accuracy", "validation_accuracy")

    def __init__(self) -> None:
        self.train: list[Point] = []
        self.validation: list[Point] = []
        self.epochs: list[Point] = []
        self.train_accuracy: list[Point] = []
        self.validation_accuracy: list[Point] = []
        self._since_point = RunningMean()
        self._of_epoch = RunningMean()

    @property
    def state_key(self) -> str:
        """Name in checkpoints, that of version 0.1: with or without pictures, a run goes on with the same curves."""
        return "CapsuleLossCurves"

    # -- training ------------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the running mean, and log that when it is time."""
        if not isinstance(outputs, Mapping) or "losses" not in outputs:
            return  # another module, which has no learners
        losses = outputs["losses"]
        if self._since_point.count and self._since_point.sums.keys() != losses.keys():
            # a capsule was pruned before this batch; what it had is a mean over its own batches
            self._make_point(trainer, trainer.fit_loop.total_batch_idx - 1)
        self._since_point.add(losses, 1)
        if 0 < trainer.log_every_n_steps <= self._since_point.count:  # type: ignore[attr-defined]
            self._make_point(trainer, trainer.fit_loop.total_batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is left of the epoch, and its means."""
        last = trainer.fit_loop.total_batch_idx
        self._make_point(trainer, last)
        if not self._of_epoch.count:
            return
        means = dict(_without_pruned(pl_module, self._of_epoch.means()))
        self._of_epoch.clear()
        self.epochs.append((last + 1, means))
        self._log(trainer, "train/epoch_loss/", means, last)
        if isinstance(pl_module, _CountsAnswers):
            results = {f"{TRAIN}{name}": value for name, value in pl_module.train_results().items()}
            self.train_accuracy.append((last + 1, accuracies_in(results, TRAIN)))

    def _make_point(self, trainer: Trainer, last: int) -> None:
        """Make a point of the batches since the one before, up to the batch of this index."""
        if not self._since_point.count:
            return
        means = self._since_point.means()
        self._of_epoch.add(self._since_point.sums, self._since_point.count)
        self._since_point.clear()
        self.train.append((last + 1, means))
        self._log(trainer, "train/loss/", means, last)

    def _log(self, trainer: Trainer, prefix: str, means: Mapping[str, float], step: int) -> None:
        """Log at a step of the loggers' axis, which counts batches from 0; ``global_step`` counts windows."""
        metrics = {f"{prefix}{name}": value for name, value in means.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, step=step)

    # -- validation ----------------------------------------------------------------------------------------------------

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the losses and accuracies of a validation in the fit."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        # the Trainer still has the last metrics of capsules that were pruned
        metrics = _without_pruned(pl_module, trainer.callback_metrics)
        batches = trainer.fit_loop.total_batch_idx + 1
        losses = losses_in(metrics, VALIDATION)
        if losses:
            self.validation.append((batches, losses))
        accuracies = accuracies_in(metrics, VALIDATION)
        if accuracies:
            self.validation_accuracy.append((batches, accuracies))

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, so that those of a resumed run are whole."""
        return {name: list(getattr(self, name)) for name in self.SERIES} | {
            "sums": dict(self._since_point.sums),
            "count": self._since_point.count,
            "epoch_sums": dict(self._of_epoch.sums),
            "epoch_count": self._of_epoch.count,
        }

    def _take_over(self, state_dict: Mapping[str, Any]) -> None:
        for name in self.SERIES:
            setattr(self, name, list(state_dict[name]))
        for mean, prefix in ((self._since_point, ""), (self._of_epoch, "epoch_")):
            mean.clear()
            mean.add(state_dict[f"{prefix}sums"], state_dict[f"{prefix}count"])


def _without_pruned(pl_module: LightningModule, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return pl_module.without_pruned(values) if isinstance(pl_module, _CountsAnswers) else values


def losses_in(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Sort out the losses from a Trainer's metrics.

    Args:
        metrics: By path.
        prefix: Of the paths: ``"train/"`` or ``"val/"``.

    Returns:
        By learner.

    Example:
        >>> losses_in({"val/loss/block0.k3": 0.5, "val/loss/head": 0.4, "val/error": 0.1}, "val/")
        {'block0.k3': 0.5, 'head': 0.4}
    """
    start = f"{prefix}loss/"
    losses = {}
    for path, value in metrics.items():
        if path.startswith(start):
            losses[path.removeprefix(start)] = float(value)
    return losses


def accuracies_in(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Sort out the accuracies from a Trainer's metrics; the head's, which has no name there, comes last.

    Args:
        metrics: By path.
        prefix: Of the paths: ``"train/"`` or ``"val/"``.

    Returns:
        By learner.

    Example:
        >>> accuracies_in({"val/accuracy": 0.9, "val/accuracy/block0.k3": 0.8, "val/error": 0.1}, "val/")
        {'block0.k3': 0.8, 'head': 0.9}
    """
    path_of_head = f"{prefix}accuracy"
    accuracies = {}
    for path, value in metrics.items():
        if path.startswith(f"{path_of_head}/"):
            accuracies[path.removeprefix(f"{path_of_head}/")] = float(value)
    if path_of_head in metrics:
        accuracies[HEAD] = float(metrics[path_of_head])
    return accuracies
