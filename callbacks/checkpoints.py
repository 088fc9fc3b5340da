"""The checkpoints of a run folder: the best, the last, and that of an interruption."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from primenet_lightning.runs import RunFolder


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``, of least validation error; it goes on with a run whose folder was moved.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="best", monitor="val/error", mode="min", enable_version_counter=False)

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


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``, at the end of every epoch.

    ``ModelCheckpoint(save_last=True)`` would only write it in epochs whose validation error is the best so
    far.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, filename="last", monitor=None, save_on_train_epoch_end=True, enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over nothing: there is one file, and its place is known."""


class InterruptCheckpoint(Callback):
    """Stop at Ctrl-C, after the batch that is under way; save a checkpoint, and say how to go on.

    In the middle of a batch some capsules may have been updated and others not. After the last batch of an
    epoch the epoch is finished, validation and ``last.ckpt`` included, and no other checkpoint is needed. A
    second Ctrl-C stops at once, without a checkpoint.

    Args:
        run: The run's folder.
        save: Whether there are checkpoints in this run.
    """

    def __init__(self, run: RunFolder, save: bool = True) -> None:
        self.run = run
        self.save = save
        self.asked = False

    @property
    def path(self) -> Path:
        """Where the checkpoint goes."""
        return self.run.checkpoints / "interrupted.ckpt"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch Ctrl-C; Lightning ignores it from the first on and never gives it back."""
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after this batch; Ctrl-C again stops at once.", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if asked to."""
        # gradients that wait for their step are in no checkpoint, so the window is finished first
        if self.asked and not trainer.is_last_batch and pl_module.window_ends(batch_idx):  # type: ignore[operator]
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here if asked to since the last batch of the epoch before."""
        if self.asked:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the checkpoint of an earlier interruption: this epoch's is newer."""
        if trainer.is_global_zero:
            self.path.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save, if it was the user and a batch has just been done."""
        if not isinstance(exception, KeyboardInterrupt) or trainer.state.fn != "fit":
            return
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if self.save and 0 < done.processed == done.ready < trainer.num_training_batches:
            trainer.save_checkpoint(self.path, weights_only=False)
        if trainer.is_global_zero:
            print(f"Stopped after {trainer.global_step} steps; {self._advice()}", file=sys.stderr)

    def _advice(self) -> str:
        try:
            _ = self.run.newest
        except FileNotFoundError:
            return f"there is no checkpoint yet, so remove {self.run.path} and start anew"
        return f"go on with: primenet fit --resume {self.run.path}"
