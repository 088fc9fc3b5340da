"""A progress bar that shows the capsules' losses."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import RenderableType
from rich.progress import BarColumn, ProgressColumn
from rich.table import Column
from rich.text import Text

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.names import LearnerName


class LossProgressBar(RichProgressBar, metaclass=CheckedArguments):
    """Lightning's rich progress bar with the latest loss of each capsule and the head, in two lines at most.

    The losses have a line of their own, cut off where the terminal is narrow, and all of it goes when the work is done:
    a bar higher than the lines it is redrawn in would leave pieces of itself behind. In a file nothing is drawn.

    It looks at the clock instead of the batch count, so that small networks do not spend their time on drawing.

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

    # -- what it looks like --------------------------------------------------------------------------------------------

    def _init_progress(self, trainer: Trainer) -> None:
        """Begin to draw."""
        before = self.progress
        super()._init_progress(trainer)
        progress = self.progress
        if progress is None or progress is before:
            return
        progress.live.transient = True
        progress.columns = progress.columns[:-1]  # without the losses, which have a line of their own
        for column in progress.columns:
            if isinstance(column, BarColumn):
                column.bar_width = max(4, min(40, progress.console.width - 60))
        # rich's documentation names this method as the one to replace
        progress.get_renderables = self._lines  # type: ignore[method-assign]
        if not progress.console.is_terminal:
            progress.live.stop()
            progress.disable = True  # or its end would be an empty line

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Lightning's columns, none of which may be wrapped."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        for column in columns:
            column._table_column = Column(no_wrap=True)
        return columns

    def _lines(self) -> Iterable[RenderableType]:
        """The bar, and the losses below it; a bar for the validation takes the place of the losses."""
        assert self.progress is not None
        tasks = [task for task in self.progress.tasks if task.visible]
        yield self.progress.make_tasks_table(tasks[-2:])
        if len(tasks) == 1 and self._metric_component is not None:
            yield Text(_in_a_line(self._metric_component._metrics), no_wrap=True, overflow="ellipsis")

    # -- what it says --------------------------------------------------------------------------------------------------

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


def _in_a_line(metrics: Mapping[Any, Any]) -> str:
    """Losses and errors by name, in three decimals."""
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if isinstance(value, float))


def _shared_stages(names: Iterable[str]) -> set[str]:
    """The stages that have learners with names of their own."""
    return {LearnerName.parse(name).stage for name in names if LearnerName.parse(name).learner}
