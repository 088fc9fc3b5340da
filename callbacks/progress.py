"""A progress bar that shows the capsules' losses."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from primenet_lightning.nn.names import LearnerName


class LossProgressBar(RichProgressBar):
    """Lightning's rich progress bar with the latest loss of each capsule and the head.

    It looks at the clock instead of the batch count, so that small networks do not spend their time on
    drawing.

    Args:
        updates_per_second: How often the bar moves.
        **kwargs: Of ``RichProgressBar``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LossProgressBar()], logger=False, enable_checkpointing=False)
    """

    def __init__(self, updates_per_second: int = 4, **kwargs: Any) -> None:
        super().__init__(refresh_rate=updates_per_second, **kwargs)
        self._losses: dict[str, float] = {}
        self._due = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar if it is time, and always at the end of the epoch."""
        now = time.monotonic()
        if now < self._due and batch_idx + 1 < self.total_train_batches:
            return
        self._due = float("inf")
        if self.refresh_rate:
            self._due = now + 1 / self.refresh_rate
        self._losses = {}
        if isinstance(outputs, Mapping):
            self._losses = outputs.get("losses", {})
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The losses by name, the only block left unnamed, beside what was logged with ``prog_bar=True``."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        losses = self._losses
        if len(_shared_stages(losses)) == 1:
            # with the name of the only block the bar would not fit into a line
            losses = {LearnerName.parse(name).short: value for name, value in losses.items()}
        return {**losses, **items}


def _shared_stages(names: Iterable[str]) -> set[str]:
    """The stages that have learners with names of their own."""
    return {LearnerName.parse(name).stage for name in names if LearnerName.parse(name).learner}
