"""A LightningModule whose checkpoints are enough to predict, and to go on exactly."""

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from primenet_lightning.datamodules.preprocessing import Preprocess
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.training.evaluator import Evaluator
from primenet_lightning.training.random_numbers import KeyedRandom
from primenet_lightning.training.refusals import description_of, refuse_architecture, refuse_classes
from primenet_lightning.training.resuming import ProcessStates
from primenet_lightning.training.resumption import Resumption
from primenet_lightning.training.version_0_1 import FORMAT, FORMAT_KEY, is_of_0_1, readable, rename_entries

Model = TypeVar("Model", bound="Resumable")


class Resumable(Evaluator, ABC):
    """Saves what Lightning leaves out: the description of the data, and every process's state in mid-epoch.

    Attributes:
        data_description: Of the data trained on, from `ImageDataModule.description`; None before the fit.
        skipped_steps: Optimizer steps that fp16's scaler left out because a gradient was not finite.
        keyed_random: Whether the random numbers of stages are keyed; None leaves it to a pipeline, or a run resumed.
        random_key: What the random numbers of stages are keyed with; None where they are not, or before the fit.
        resumption: What its optimizers and its schedule are, and were in the run that is resumed.
    """

    ENTRIES_OF_0_1: ClassVar[dict[str, str]] = {}
    """How names of weights began in checkpoints of version 0.1, and how they begin now."""

    LAID_OUT: ClassVar[tuple[str, ...]] = ()
    """Entries of a checkpoint that `check_resumed` looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.data_description: dict[str, Any] | None = None
        self.skipped_steps = 0
        self.keyed_random: bool | None = None
        self.random_key: int | None = None
        self.resumption = Resumption()
        self._states = ProcessStates()
        self._laid_out: dict[str, Any] = {}

    def on_train_start(self) -> None:
        """Go on with the random numbers, and the waiting gradients, of the run that is resumed.

        Raises:
            ValueError: As `check_resumed`.
        """
        if self.resumption.is_resumed:
            self.check_resumed(self._laid_out)
        self._states.restore(self.network, self.device, self.exchange.rank, self.exchange.size)

    def images_of(self, images: Tensor) -> Tensor:
        """Bring images to the network's precision; of uint8, resize and normalise them first, as those trained on.

        Not in training, where a data module may have to augment them first: then the Trainer has to know it.

        Args:
            images: ``(batch, channels, height, width)``: normalised, or uint8 as the loaders of an `ImageDataModule`
                give them to a Trainer that does not know the data module.

        Returns:
            The same, ``(batch, channels, height, width)``, in the type of the parameters.

        Raises:
            ValueError: If they are integers, and nobody knows how to normalise them.
        """
        if images.dtype == torch.uint8 and self.data_description is not None and not self.training:
            images = Preprocess.of(self.data_description)(images)
        return super().images_of(images)

    def located(self, error: NonFiniteError) -> NonFiniteError:
        """Tell of a number that is not finite when it came.

        Args:
            error: Which says whose it is.

        Returns:
            The same error, with the step.
        """
        return NonFiniteError(error.name, error.value, self.global_step)

    def key_random_numbers(self) -> KeyedRandom | None:
        """Key the random numbers of stages, where that is wanted, as the run that is resumed has.

        Returns:
            What keys them; None where they come in torch's one sequence.
        """
        keyed = self.keyed_random
        if keyed is None:
            keyed = self.random_key is not None or not self.section.is_whole
        seed = self.section.of_last(torch.initial_seed()) if self.random_key is None else self.random_key
        self.random_key = seed if keyed else None
        return KeyedRandom(seed) if keyed else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what Lightning does not save; every rank has to save, as Lightning wants it anyway.

        That is the description of the data and this class's path, which make a checkpoint enough to predict; of each
        rank the state of the random numbers and gradients that wait for the rest of their window; the answers
        counted so far in the epoch, and the steps skipped.

        Args:
            checkpoint: Lightning's; added to.

        Raises:
            NonFiniteError: If a parameter is NaN or infinite: the checkpoint before it remains the last one.
        """
        for name, parameters in self.section.learners().items():
            finite = [parameter.isfinite().all() for parameter in parameters]
            if finite and not bool(torch.stack(finite).all()):
                raise self.located(NonFiniteError(name))
        checkpoint[FORMAT_KEY] = FORMAT
        checkpoint["data_description"] = self.data_description
        checkpoint["class_path"] = f"{type(self).__module__}.{type(self).__qualname__}"
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["random_key"] = self.random_key
        checkpoint |= self.resumption.state_dict()
        # in place: Lightning's state_dict, collected already, shares these tensors
        self.exchange.settle(self.network)
        self._late.catch_up(self.section.classifier_names)
        checkpoint["train_losses"] = self._epoch_losses.state_dict()
        checkpoint |= ProcessStates.save(self.network, self.train_metrics, self.device, self.exchange)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` put in.

        Args:
            checkpoint: What was saved.

        Raises:
            ValueError: If the checkpoint is of another architecture, or of other classes than the data at hand.
        """
        if is_of_0_1(checkpoint):
            rename_entries(checkpoint["state_dict"], self.ENTRIES_OF_0_1)
        self.data_description = checkpoint.get("data_description")
        if self._trainer is None:
            return
        refuse_classes(self.data_description, description_of(self.trainer))
        self.network.match(checkpoint["state_dict"], "network.")
        if self.strict_loading:
            refuse_architecture(checkpoint["state_dict"], self.state_dict())
        if self.trainer.precision == "64-true":
            self.double()  # Lightning does so later for 64-true, when the digits beyond float32 are lost
        if self.trainer.state.fn == "fit":
            self._resume(checkpoint)

    def check_resumed(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a run that a fit of this length could not go on with; a subclass that lays something out over it does.

        Args:
            checkpoint: Entries `LAID_OUT` of the run's checkpoint.

        Raises:
            ValueError: If what is laid out over the fit would now begin or end at other steps.
        """

    def _resume(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on with a run: what this process has of its own waits for the start of the fit."""
        if is_of_0_1(checkpoint) and self.ENTRIES_OF_0_1:
            raise ValueError(
                f"the checkpoint is of a {type(self).__name__} of version 0.1, which was trained by another loop; it "
                "can be tested and used for prediction, but its training cannot go on: start a new run"
            )
        self._laid_out = {name: checkpoint[name] for name in self.LAID_OUT if name in checkpoint}
        self.skipped_steps = checkpoint.get("skipped_steps", 0)
        self.random_key = checkpoint.get("random_key")
        self.resumption.resume(checkpoint, self.hparams.get("schedule"))
        self._states.load(checkpoint)
        self._epoch_losses.load_state_dict(checkpoint.get("train_losses", {}))
        loggers: list[Any] = self.loggers
        for logger in loggers:
            if hasattr(logger, "resume_at") and logger.resume_at is None:
                progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
                logger.resume_at = progress["total"]["ready"]
        if self.exchange.rank == 0:
            self.train_metrics.set_counts(checkpoint.get("train_counts", {}))

    @classmethod
    def load_from_checkpoint(cls: type[Model], checkpoint_path: Any, *args: Any, **kwargs: Any) -> Model:
        """Load a model as Lightning does, also from a checkpoint of version 0.1.

        Args:
            checkpoint_path: The checkpoint.
            *args: Lightning's further arguments.
            **kwargs: Lightning's further arguments, and arguments of the constructor.

        Returns:
            A model of this class.

        Raises:
            ValueError: If the checkpoint is damaged.
        """
        with readable(checkpoint_path) as file:
            model: Model = super().load_from_checkpoint(file, *args, **kwargs)
        return model
