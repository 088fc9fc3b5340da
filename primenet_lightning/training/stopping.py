"""Stop, or requeue, between two batches: what signals ask for is done when nothing is half made."""

import contextlib
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.training.checkpoints import CheckpointOfState, LastCheckpoint, come_last, validation_follows
from primenet_lightning.training.exchange import gather

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a run that SIGTERM has stopped, as shells count."""

WHAT_FOLLOWS = {
    "interrupt": "Stopping after this batch; Ctrl-C again stops at once",
    "terminate": "Stopping after this batch",
    "requeue": "Requeueing after this batch",
}
"""What is said of each request."""


@runtime_checkable
class _PassesRequestsOn(Protocol):
    """A module that tells the other processes what this one was asked for."""

    requests: set[str]


class GracefulStop(Callback, metaclass=CheckedArguments):
    """Save and stop at Ctrl-C or SIGTERM, and requeue at SLURM's signal, after the batch that is under way.

    In the middle of a batch some capsules may have been updated and others not, and of several processes each would
    be somewhere else. So a signal is only noted; the ranks tell each other with the messages they send anyway (see
    `LocalLearner.requests`), and all of them stop after the same batch, also if one alone was signalled. The checkpoint
    is `LastCheckpoint`'s; without one it is ``interrupted.ckpt`` in the folder of the Trainer's `ModelCheckpoint`,
    and without that there is none. During validation the validation, and at the end of an epoch the epoch, is
    finished first; so is the epoch with another module on several devices, whose ranks agree only there. A second
    Ctrl-C stops at once, without a checkpoint.

    SIGTERM ends the process with status 143. The signal at which Lightning's SLURM plugin requeues a job
    (``SLURMEnvironment(auto_requeue=True)``) reaches that plugin after the batch, and training goes on until SLURM
    ends it. `LocalLearner` attaches this callback by itself.

    Args:
        resume_with: The command that goes on with the run, to be printed; None names the checkpoint.

    Attributes:
        requests: What this process was asked for: ``"interrupt"``, ``"terminate"``, ``"requeue"``.

    Example:
        >>> stop = GracefulStop(resume_with="python train.py --resume")
        >>> trainer = Trainer(callbacks=[LastCheckpoint("checkpoints"), stop], logger=False)
    """

    def __init__(self, resume_with: str | None = None) -> None:
        self.resume_with = resume_with
        self.requests: set[str] = set()
        self._meanings: dict[int, str] = {}
        self._before: dict[int, Any] = {}
        self._agreed: list[str] = []
        self._saved: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Become the Trainer's last callback: what is due after a batch is done before it stops."""
        come_last(self, trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over; Lightning gives them back to their owners when it is done."""
        self.requests.clear()
        self._agreed, self._saved = [], None
        if isinstance(pl_module, _PassesRequestsOn):
            pl_module.requests = self.requests
        if threading.current_thread() is not threading.main_thread():
            return  # signals are the main thread's
        self._meanings = _meanings_of_signals()
        self._before = {number: signal.getsignal(number) for number in self._meanings}
        for number in self._meanings:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; a second Ctrl-C stops at once."""
        request = self._meanings[number]
        if request == "interrupt" and request in self.requests:
            raise KeyboardInterrupt
        self.requests.add(request)
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            print(f"\n{WHAT_FOLLOWS[request]}.", file=sys.stderr)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do here what was asked for, unless more of the epoch belongs to this batch."""
        if isinstance(outputs, Mapping) and "requests" in outputs:
            self._agreed = outputs["requests"]
        elif trainer.world_size > 1:
            return  # another module, whose ranks agree at the end of the epoch only
        else:
            self._agreed = sorted(self.requests)
        if not self._agreed or trainer.is_last_batch or validation_follows(trainer, batch_idx):
            return
        self._save(trainer)
        self._act(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it here, if the batch before the validation put it off."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._agreed and not trainer.is_last_batch:
            self._save(trainer)
            self._act(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree at the end of an epoch, too, on what was asked for since its last batch."""
        requests_by_rank = [self.requests]
        if trainer.world_size > 1:
            requests_by_rank = gather(self.requests)
        self._agreed = sorted(set().union(*requests_by_rank))
        if self._agreed and trainer.is_last_batch:
            come_last(_BehindCheckpoints(self), trainer)

    def end_epoch(self, trainer: Trainer) -> None:
        """Save and requeue once all else of the epoch is done.

        Args:
            trainer: Between two epochs.
        """
        self._save(trainer)
        self._requeue()  # here, where the loops are between two epochs: its handler saves, too

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        self._act(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if "terminate" in self._agreed:
            self._act(trainer)  # what would follow, such as a test, may take longer than there is time

    def _save(self, trainer: Trainer) -> None:
        """Save, unless the Trainer saves nothing."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                self._saved = callback.save(trainer)
                return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                folder = Path(callback.dirpath or trainer.default_root_dir)
                self._saved = folder / "interrupted.ckpt"
                trainer.save_checkpoint(self._saved, weights_only=False)
                return

    def _act(self, trainer: Trainer) -> None:
        self._requeue()
        agreed, self._agreed = self._agreed, []
        if "interrupt" not in agreed and "terminate" not in agreed:
            return
        if trainer.is_global_zero:
            print(f"Stopped after {trainer.global_step} steps; {self._advice()}", file=sys.stderr)
        if "interrupt" in agreed:
            raise KeyboardInterrupt
        # Lightning's launcher kills the others when one of its processes ends with an error
        raise SIGTERMException(TERMINATED if trainer.is_global_zero else 0)

    def _requeue(self) -> None:
        """Hand SLURM's signal on to Lightning's handler, which all ranks have."""
        if "requeue" not in self._agreed:
            return
        self._agreed = [request for request in self._agreed if request != "requeue"]
        self.requests.discard("requeue")
        for number, handler in self._before.items():
            if number not in (signal.SIGINT, signal.SIGTERM):
                handler(number, None)

    def _advice(self) -> str:
        if self._saved is None:
            return "no checkpoint was saved"
        command = self.resume_with or f"Trainer.fit(..., ckpt_path={str(self._saved)!r})"
        return f"go on with: {command}"


class _BehindCheckpoints(CheckpointOfState):
    """Ends an epoch for `GracefulStop`, once: Lightning calls checkpoint callbacks after all else."""

    def __init__(self, stop: GracefulStop) -> None:
        self.stop = stop

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it save and requeue, and go."""
        trainer.callbacks = [other for other in trainer.callbacks if other is not self]  # type: ignore[attr-defined]
        self.stop.end_epoch(trainer)


def _meanings_of_signals() -> dict[int, str]:
    """What each signal asks for: Ctrl-C, SIGTERM, and those that Lightning's SLURM plugin listens to."""
    meanings = {int(signal.SIGINT): "interrupt", int(signal.SIGTERM): "terminate"}
    for other in signal.valid_signals() - {signal.SIGINT, signal.SIGTERM}:
        if type(signal.getsignal(other)).__module__.startswith("lightning."):
            meanings[int(other)] = "requeue"
    return meanings
