"""Callbacks that look at a fixed sample of the validation images, collected as they pass by."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from primenet_lightning.analysis.sample import BalancedSample, images_and_labels
from primenet_lightning.arguments import at_least
from primenet_lightning.callbacks.publishing import folder_of, refuse_format
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.files import without_stopping
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.layers import trial_run
from primenet_lightning.training.learner import LocalLearner


class SampleCallback(Callback, ABC):
    """Looks at a fixed sample of the validation images, every so many epochs and when the fit ends.

    The sample is copied out of the first validation of the fit that is not the sanity check, on rank 0; later ones
    would only show the same images again. All further work is rank 0's too, and calls no collective.

    Args:
        every_n_epochs: How often; None only when the fit ends.
        folder: Where figures go; None takes `run_folder`.
        figure_format: Kind of the files of figures.

    Raises:
        ValueError: If ``every_n_epochs`` is not positive, or ``figure_format`` is unknown.
    """

    needs_whole_network: ClassVar[bool] = True
    """A pipeline, whose processes have parts of it, refuses it."""

    def __init__(
        self, every_n_epochs: int | None, folder: str | Path | None, figure_format: FigureFormat = "png"
    ) -> None:
        if every_n_epochs is not None:
            at_least(1, "epoch, or None for the end only", every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        refuse_format(figure_format)
        self.folder = folder
        self.figure_format = figure_format
        self._sample: BalancedSample | None = None
        self._collected = False
        self._looked_at: tuple[int, int] = (0, -1)  # epochs that were done, and the last batch

    @property
    def looks_at(self) -> tuple[type[LocalLearner], ...]:
        """Kinds of models that there is something to see of; others are left alone."""
        return (PrimeNet,)

    @abstractmethod
    def check(self, model: Any) -> int:
        """Refuse a model that could not be looked at.

        Args:
            model: The model that is to be fitted, of a kind that it looks at.

        Returns:
            How many images are wanted.

        Raises:
            ValueError: If it could not.
        """

    @abstractmethod
    def look(self, trainer: Trainer, model: Any, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Do the work, on rank 0.

        Args:
            trainer: The Trainer.
            model: The model, of a kind that it looks at.
            sample: At least one image.
            epoch: Epochs done so far.
            folder: The run's folder.
        """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the model and ask for the folder, while all ranks are at the same place."""
        self._sample, self._collected = None, False
        if not isinstance(pl_module, self.looks_at):
            kinds = " or ".join(kind.__name__ for kind in self.looks_at)
            rank_zero_warn(f"{type(self).__name__} has nothing to show: {type(pl_module).__name__} is no {kinds}")
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._sample = BalancedSample(self.check(pl_module), pl_module.num_classes)
            self._folder = folder_of(trainer, self.folder)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy what the sample still wants."""
        if self._sample is None or self._collected or self._sample.full or not trainer.is_global_zero:
            return
        pair = images_and_labels(batch)
        if pair is not None and _in_fit(trainer):
            self._sample.add(*pair)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if so many epochs have passed."""
        if not _in_fit(trainer):
            return
        self._collected = True  # a small split never fills the sample; a second pass would only repeat it
        epoch = trainer.current_epoch + int(trainer.is_last_batch)
        last_epoch, _ = self._looked_at
        every = self.every_n_epochs
        if every is not None and epoch // every > last_epoch // every:
            self._look(trainer, pl_module, epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look a last time, unless nothing was trained since the last time."""
        _, last_batch = self._looked_at
        if last_batch != trainer.fit_loop.total_batch_idx:
            self._look(trainer, pl_module, trainer.current_epoch)

    def _look(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        # the ranks' samples differ, so nothing below may be a collective
        self._looked_at = (epoch, trainer.fit_loop.total_batch_idx)
        if self._sample is not None and len(self._sample) and trainer.is_global_zero:
            with without_stopping(f"the picture of {type(self).__name__}"), trial_run(pl_module):
                self.look(trainer, pl_module, self._sample, epoch, self._folder)

    def state_dict(self) -> dict[str, Any]:
        """When it was looked last, so that a resumed run keeps the rhythm."""
        return {"looked_at": list(self._looked_at)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the rhythm of the run that is resumed."""
        epoch, batch = state_dict["looked_at"]
        self._looked_at = (epoch, batch)


def _in_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking
