"""What a callback has seen of a fit, and keeps when a checkpoint is only looked at."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class FitState(Callback):
    """A callback whose state is that of a fit: it comes with the fit that is resumed, not with one that is tested."""

    _resumes = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what a checkpoint is opened for."""
        self._resumes = stage == "fit"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run that is resumed; where its checkpoint is only tested, what has been seen stays."""
        if self._resumes:
            self._take_over(state_dict)

    def _take_over(self, state_dict: Mapping[str, Any]) -> None:
        raise NotImplementedError
