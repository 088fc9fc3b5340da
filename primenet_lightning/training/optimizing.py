"""A LightningModule with one optimizer per learner, stepped as one."""

from abc import ABC
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from primenet_lightning.training.norm_biases import norm_biases
from primenet_lightning.training.optimizer_recipe import OptimizerRecipe
from primenet_lightning.training.optimizers import CompositeOptimizer, CompositeScheduler
from primenet_lightning.training.progress import steps_of_fit
from primenet_lightning.training.resumable import Resumable
from primenet_lightning.training.schedules import Schedule
from primenet_lightning.training.schedules import schedule as make_schedule
from primenet_lightning.training.settings import settings_of


class Optimizing(Resumable, ABC):
    """Builds the optimizers and schedules of a network's learners, and steps the schedules.

    Attributes:
        optimizer_recipe: Makes optimizers and schedules of single learners.
        lr: Learning rate of all learners; None leaves what the optimizers begin with.
        schedule: Of all learners, by name; None for none.
        scheduler_interval: What schedules count, ``"epoch"`` or ``"step"``.
        accumulate_grad_batches: Batches an optimizer step.
    """

    optimizer_recipe: OptimizerRecipe
    lr: float | None
    schedule: Schedule | None
    scheduler_interval: str
    accumulate_grad_batches: int

    def __init__(self) -> None:
        super().__init__()
        self._steps_applied = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build one optimizer per learner, all in one `CompositeOptimizer`."""
        biases = norm_biases(self.network)
        composite, schedulers = self.optimizer_recipe.make(self.section.learners(), self.lr, biases)
        self.resumption.built(settings_of(composite, schedulers))
        composite.register_step_post_hook(self._count_step)
        # the command line tries the optimizers before it fits; then nobody knows yet how many steps there will be
        named = self.schedule is not None and self.trainer.state.fn == "fit"
        if not (named or schedulers):
            return composite
        scheduler: LRScheduler = CompositeScheduler(composite, schedulers)
        if self.schedule is not None:
            scheduler = make_schedule(self.schedule, composite, self._lay_out())
        return {
            "optimizer": composite,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler_interval},
        }

    def _lay_out(self) -> int:
        """Over how many steps the schedule goes."""
        start, steps = self.span_of_fit(f"schedule={self.schedule!r}")
        self.resumption.laid_out(start, steps)
        return steps

    def span_of_fit(self, what: str) -> tuple[int, int]:
        """Tell where this fit begins, and how long it is.

        Args:
            what: Needs to know, for the sentence.

        Returns:
            Optimizer steps that the Trainer had done before, and those of this fit; one that is resumed is whole.

        Raises:
            ValueError: If it has no end.
        """
        start = 0 if self.resumption.is_resumed else self.trainer.global_step
        return start, steps_of_fit(self.trainer, what, self.accumulate_grad_batches, start)

    @property
    def learner_optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by learner, once the Trainer has made them."""
        return self._composite().children

    def _composite(self) -> CompositeOptimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, CompositeOptimizer)
        return optimizer

    def drop_learners(self, names: Sequence[str]) -> None:
        """Take the optimizers and schedules of some learners out for good.

        Args:
            names: Of the learners.
        """
        places = self._composite().drop(names)
        self.resumption.dropped(names)
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, CompositeScheduler):
            scheduler.drop(names)
        elif isinstance(scheduler, LRScheduler):
            scheduler.base_lrs = [scheduler.base_lrs[place] for place in places]
            if isinstance(scheduler, LambdaLR):
                scheduler.lr_lambdas = [scheduler.lr_lambdas[place] for place in places]

    def window_ends(self, batch_idx: int) -> bool:
        """Whether an optimizer step follows this batch: the last of a window, or of the epoch.

        Args:
            batch_idx: Index of the batch in the epoch.

        Returns:
            Always True unless gradients accumulate.
        """
        return (batch_idx + 1) % self.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def _mend_short_window(self, batch_idx: int) -> None:
        """Average the last window over the batches it has; gradients are exchanged, not yet unscaled or clipped."""
        size = self.accumulate_grad_batches
        count = batch_idx % size + 1
        if count == size:
            return
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad *= size / count

    def _step_all(self) -> None:
        """Step the composite once, clipped in `on_before_optimizer_step`; stage by stage there is nothing left."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        applied = self._steps_applied
        optimizer.step()
        self.skipped_steps += self._steps_applied == applied  # by fp16's scaler, for all learners on all ranks
        optimizer.zero_grad()
        self.step_schedulers("step")

    def step_schedulers(self, interval: str) -> None:
        """Step the schedules that count this, those too that Lightning has put in place of the model's own.

        Args:
            interval: ``"step"`` or ``"epoch"``.
        """
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval:
                config.scheduler.step()  # type: ignore[call-arg]

    def _count_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._steps_applied += 1
