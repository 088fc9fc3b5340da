"""A W&B logger that never stops a training."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from primenet_lightning.files import without_stopping


class PatientWandbLogger(WandbLogger):
    """Lightning's W&B logger; what W&B raises while the training goes on becomes one warning.

    W&B itself waits out a network that is lost. What remains is its service dying, a full disk, and files that it
    does not like: no reason to lose hours of training. The first call, which begins the run, still raises.

    Args:
        **kwargs: Of ``lightning.pytorch.loggers.WandbLogger``.

    Example:
        >>> logger = PatientWandbLogger(mode="disabled")
        >>> logger.log_metrics({"loss": 0.5}, step=3)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self._wandb_init.get("anonymous") is None:  # W&B warns of it, though it is not asked for
            self._wandb_init.pop("anonymous", None)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, or what else W&B takes, by step."""
        with without_stopping("logging to W&B"):
            super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log hyperparameters."""
        with without_stopping("logging hyperparameters to W&B"):
            super().log_hyperparams(params)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Send the checkpoint, where checkpoints are sent."""
        with without_stopping("sending a checkpoint to W&B"):
            super().after_save_checkpoint(checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is left."""
        with without_stopping("finishing with W&B"):
            super().finalize(status)
