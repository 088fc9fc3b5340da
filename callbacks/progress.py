"""A progress bar that shows the capsules' losses."""

import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


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
        self._due = now + 1 / self.refresh_rate if self.refresh_rate else float("inf")
        self._losses = outputs.get("losses", {}) if isinstance(outputs, Mapping) else {}
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The losses by name, the only block left unnamed, beside what was logged with ``prog_bar=True``."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        # with the name of the only block the bar would not fit into a line
        several = any(name.startswith("block1.") for name in self._losses)
        losses = {name if several else name.removeprefix("block0."): value for name, value in self._losses.items()}
        return {**losses, **items}
