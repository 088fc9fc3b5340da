"""How a run goes on: what its optimizers and its schedule were, and what they are now."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from primenet_lightning.training.optimizers import CompositeOptimizer
from primenet_lightning.training.settings import (
    Settings,
    follow_changes,
    refuse_other_optimizers,
    refuse_other_schedule,
    settings_in,
)


class Resumption:
    """Compares the optimizers and the schedule at hand with those of the run that is resumed, and follows changes.

    Attributes:
        settings: Of the optimizers at hand, as they were built; empty before.
        schedule_steps: Over how many steps the schedule is laid out; None without one, or before the fit.
        schedule_start: Steps that the Trainer had done before the schedule began.
    """

    def __init__(self) -> None:
        self.settings: Settings = {}
        self.schedule_steps: int | None = None
        self.schedule_start = 0
        self._saved: Mapping[str, Any] | None = None

    @property
    def is_resumed(self) -> bool:
        """Whether a checkpoint has been loaded that the fit to come goes on from."""
        return self._saved is not None

    def state_dict(self) -> dict[str, Any]:
        """Entries of a checkpoint."""
        return {
            "optimizer_settings": self.settings,
            "schedule_steps": self.schedule_steps,
            "schedule_start": self.schedule_start,
        }

    def resume(self, checkpoint: Mapping[str, Any], schedule: str | None) -> None:
        """Go on from a checkpoint; a fit calls it before the optimizers are built.

        Args:
            checkpoint: With the entries of `state_dict`.
            schedule: Of the model at hand, by name.

        Raises:
            ValueError: If the run had another schedule.
        """
        refuse_other_schedule(checkpoint.get("hyper_parameters", {}).get("schedule"), schedule)
        self._saved = {
            "optimizer_settings": settings_in(checkpoint),
            "schedule_steps": checkpoint.get("schedule_steps"),
            "schedule_start": checkpoint.get("schedule_start", 0),
        }

    def check(self, checkpoint: Mapping[str, Any], schedule: str | None) -> None:
        """Refuse a checkpoint that the optimizers at hand cannot go on from; nothing is remembered of it.

        Args:
            checkpoint: Of a fit.
            schedule: Of the model at hand, by name.

        Raises:
            ValueError: If the run had other optimizers, or another schedule.
        """
        refuse_other_schedule(checkpoint.get("hyper_parameters", {}).get("schedule"), schedule)
        refuse_other_optimizers(settings_in(checkpoint), self.settings)

    def built(self, settings: Settings) -> None:
        """Take note of the optimizers at hand.

        Args:
            settings: As they were built.

        Raises:
            ValueError: If they cannot go on with the state of the run that is resumed.
        """
        self.settings = settings
        if self._saved is not None:
            refuse_other_optimizers(self._saved["optimizer_settings"], settings)

    def dropped(self, learners: Iterable[str]) -> None:
        """Forget learners that are gone for good.

        Args:
            learners: By name.
        """
        for learner in learners:
            self.settings.pop(learner, None)

    def laid_out(self, start: int, steps: int) -> None:
        """Take note of the schedule.

        Args:
            start: Steps that the Trainer had done before it began.
            steps: Over how many more it is laid out.
        """
        self.schedule_start, self.schedule_steps = start, steps

    def begin(self, composite: CompositeOptimizer, scheduler: LRScheduler | None) -> list[str]:
        """Begin the fit, all states being restored.

        Args:
            composite: The optimizers.
            scheduler: Of the composite; None without one.

        Returns:
            A sentence for each setting that the user has changed since the run that is resumed.

        Raises:
            ValueError: If that run's schedule was laid out over another number of steps.
        """
        saved, self._saved = self._saved, None
        if saved is None:
            return []
        if saved["schedule_steps"] is not None:
            before = saved["schedule_start"] + saved["schedule_steps"]
            if before != self.schedule_steps:
                raise ValueError(
                    f"the schedule of the resumed run was laid out over {before} steps, and this fit has "
                    f"{self.schedule_steps}; resume with the same max_epochs, max_steps and data"
                )
            self.laid_out(saved["schedule_start"], saved["schedule_steps"])
        return follow_changes(saved["optimizer_settings"], self.settings, composite, scheduler)
