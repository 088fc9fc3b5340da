"""Checkpoints: files that are whole or not there, and when they are written: the best and the last."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.strategies import Strategy

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.files import without_stopping
from primenet_lightning.training.checkpoint_files import read_checkpoint, write_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and then renames it, so that a crash leaves the old one or the new one.

    Lightning's own goes through the temporary folder, from where a move to another file system is a copy, which a
    crash can cut short. `PrimeNet` puts this one in place of Lightning's default; paths with a protocol
    (``s3://...``) it leaves to that.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, f"{folder}/it.ckpt")
        ...     print(os.listdir(folder), AtomicCheckpointIO().load_checkpoint(f"{folder}/it.ckpt"))
        ['it.ckpt'] {'state_dict': {}}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Its content.
            path: The file.
            storage_options: Not used, as in Lightning's own.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        write_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: The file.
            map_location: As in ``torch.load``.
            weights_only: Likewise; None means yes: nothing in a checkpoint of PrimeNet needs more.

        Returns:
            Its content.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint, or damaged.
        """
        weights_only = weights_only is not False
        if "://" in str(path):
            loaded = super().load_checkpoint(path, map_location, weights_only)
        else:
            loaded = read_checkpoint(path, map_location, weights_only)
        if not isinstance(loaded, dict) or "state_dict" not in loaded:
            raise ValueError(f"{path} is no checkpoint of a LightningModule: it has no state_dict; use another file")
        return loaded


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``, of least validation error; it goes on with a run whose folder was moved.

    A model that says ``is_complete = False`` is still to lose parts of its network, or to learn what it will answer by,
    and is not looked at.
    Of a data module without validation images it is that of the last epoch: nothing chooses.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="best", monitor="val/error", mode="min", enable_version_counter=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what is better than what was best so far."""
        if getattr(pl_module, "is_complete", True):
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, where validations do not come by epochs, what is better than what was best so far."""
        if getattr(pl_module, "is_complete", True):
            super().on_train_epoch_end(trainer, pl_module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look whether there are validation images to choose by."""
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and not getattr(data, "has_validation", True):
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was best so far, if that checkpoint is in this folder."""
        best = self.best
        if state_dict["best_model_path"] and best.is_file():
            score = state_dict["best_model_score"]
            self.best_model_score = self.current_score = self.kth_value = score
            self.best_model_path = self.kth_best_model_path = str(best)
            self.best_k_models = {str(best): score}

    @property
    def best(self) -> Path:
        """Where the checkpoint is, once there is one."""
        assert self.dirpath is not None
        return Path(self.dirpath) / "best.ckpt"


def come_last(callback: Callback, trainer: Trainer) -> None:
    """Put a callback behind all others.

    Args:
        callback: Of the Trainer.
        trainer: The Trainer.
    """
    others = [other for other in trainer.callbacks if other is not callback]  # type: ignore[attr-defined]
    trainer.callbacks = [*others, callback]  # type: ignore[attr-defined]  # a new list: Lightning goes through the old one


class CheckpointOfState(Checkpoint):
    """A checkpoint callback that knows of no best one, and so comes after those that do.

    Lightning asks the first checkpoint callback where ``ckpt_path="best"`` is.
    """

    best_model_path = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Become the Trainer's last callback."""
        come_last(self, trainer)


class LastCheckpoint(CheckpointOfState, metaclass=CheckedArguments):
    """``last.ckpt``: at the start, every so many steps, and at the end of every epoch.

    So there is one from the first batch on, and a crash costs at most ``every_n_train_steps`` steps.
    ``ModelCheckpoint(save_last=True)`` would only write it where the validation error is the best so far, and would
    save before a validation that follows the batch; a run resumed from there would leave that validation out.

    Args:
        folder: Of the checkpoints.
        every_n_train_steps: Optimizer steps between two of them.

    Raises:
        ValueError: If that is not positive.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> last = LastCheckpoint("runs/first/checkpoints", every_n_train_steps=500)
        >>> trainer = Trainer(callbacks=[last], logger=False)
        >>> last.path.as_posix()
        'runs/first/checkpoints/last.ckpt'
    """

    def __init__(self, folder: str | Path, every_n_train_steps: int = 100) -> None:
        at_least(1, every_n_train_steps=every_n_train_steps)
        self.path = Path(folder) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._saved_at = 0

    def save(self, trainer: Trainer) -> Path:
        """Save now; every rank has to. The loggers write first what the checkpoint says was logged.

        On one device a full disk becomes a warning, and the checkpoint before stays.

        Args:
            trainer: Whose state is saved; not in a ``fast_dev_run``.

        Returns:
            The path.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return self.path
        for logger in trainer.loggers:
            logger.save()
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        except OSError as error:
            if trainer.world_size > 1:
                raise  # the other ranks wait for this one
            with without_stopping(f"writing {self.path}", OSError):
                raise error
        self._saved_at = trainer.global_step
        return self.path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a new run's state before its first batch."""
        self._saved_at = trainer.global_step
        if trainer.ckpt_path is None:
            self.save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, unless a validation or the epoch's end follows, where it is done."""
        if not (trainer.is_last_batch or validation_follows(trainer, batch_idx)):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it was time before the validation."""
        if trainer.state.fn == "fit" and not (trainer.sanity_checking or trainer.is_last_batch):
            self._save_if_due(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        # a run that ends in the middle of an epoch may be gone on with, from here and not from the next epoch
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        if ends or trainer.global_step - self._saved_at >= self.every_n_train_steps:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the epoch was cut short, by ``max_steps`` or ``max_time``."""
        if trainer.is_last_batch:
            self.save(trainer)


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation follows this batch in the middle of the epoch.

    Args:
        trainer: In a fit.
        batch_idx: Index of the batch in the epoch.

    Returns:
        By the Trainer's ``val_check_interval`` and ``check_val_every_n_epoch``; False where it goes by the clock.
    """
    every = trainer.val_check_batch
    if not every or every == float("inf") or not trainer.enable_validation:
        return False
    epochs = trainer.check_val_every_n_epoch
    if epochs is not None and (trainer.current_epoch + 1) % epochs:
        return False
    if trainer.should_stop and getattr(trainer.fit_loop, "_can_stop_early", True):
        return True  # Lightning validates before it stops early
    done = trainer.fit_loop.total_batch_idx if epochs is None else batch_idx
    return (done + 1) % int(every) == 0


def use_atomic_checkpoints(strategy: Strategy) -> None:
    """Put an `AtomicCheckpointIO` in place of Lightning's default; what a user chose stays.

    Args:
        strategy: The Trainer's.
    """
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
