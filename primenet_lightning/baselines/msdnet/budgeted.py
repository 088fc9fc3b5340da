"""What MSDNet and IMTA have in common as models of the engine: exits, and thresholds that spend a budget."""

import dataclasses
import functools
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn

from primenet_lightning.baselines.msdnet.plan import Plan, Spacing
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.exits.costs import ExitRecord, exit_costs, spent
from primenet_lightning.nn.exits.network import classify
from primenet_lightning.nn.exits.stage import ExitLosses, ExitsNetwork, exit_cross_entropies
from primenet_lightning.nn.exits.thresholds import anytime_thresholds, check_budget, thresholds_of_budget
from primenet_lightning.nn.network import Evaluation
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable

Prediction = Literal["budgeted_batch", "anytime"]
"""What a budget is of: the mean of many images, or each one."""


class BudgetedExits(EndToEnd, ABC):
    """A network with several exits, whose images leave by thresholds that spend a budget.

    The exits are learners, ``exit0``, ``exit1``, ..., and the last one ``head``: losses and errors of each are logged
    under their names, so that ``val/error/exit0`` is the error of *anytime* prediction at this exit's cost. Their
    losses go backward together. With a budget for batches, thresholds are found at the end of each validation, on
    images that training never sees and that are not augmented; they are part of the checkpoint. With any budget also
    logged, for val and test: ``budget/error`` (%) of the answers at the exits taken, and ``budget/multiply_adds``, the
    mean over the images.

    A trained model takes another budget as it is loaded: ``MSDNet.load_from_checkpoint(path, budget=20e6)``, and then
    ``Trainer().validate(model, data)``, which finds its thresholds.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        exits: How many there are.
        base: Layers before the first exit.
        step: Layers between two exits, see ``spacing``.
        spacing: ``"lin_grow"``: ``step (i - 1) + 1`` layers before the i-th exit, as in the network of budgeted batch
            prediction. ``"even"``: ``step`` layers, as in that of anytime prediction, with ``base=4, step=2``.
        scales: Sizes of maps side by side, each half as high and wide as the one before; 3 for images of 28 to 32
            pixels, 2 for smaller ones.
        channels: Of the finest scale's first maps.
        growth: Channels that a layer adds to the finest scale.
        exit_channels: Filters of the exits' convolutions.
        budget: Multiply-adds of an image when it is predicted. None: all go to the last exit.
        prediction: ``"budgeted_batch"``: images cost the budget in the mean, and easy ones leave early. ``"anytime"``:
            each image costs at most the budget, and all leave at the last exit that can be paid.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Attributes:
        thresholds: One an exit; those of batches from the last validation. None without a budget, or before there was
            a validation.

    Raises:
        ValueError: If a number is too small, the budget is below the first exit's cost or missing, or exits should go
            backward one by one.
    """

    network: ExitsNetwork  # type: ignore[assignment]

    def __init__(
        self,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        num_classes: int = 10,
        exits: int = 5,
        base: int = 1,
        step: int = 1,
        spacing: Spacing = "lin_grow",
        scales: int = 3,
        channels: int = 16,
        growth: int = 6,
        exit_channels: int = 128,
        budget: float | None = None,
        prediction: Prediction = "budgeted_batch",
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        if learning.get("backward") == "learner":
            raise ValueError("backward='learner' cannot be: exits share layers; use 'stage' or 'batch'")
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)
        self.budget = budget
        self.prediction = prediction
        self.thresholds: list[float] | None = None
        self._record = ExitRecord()
        self._refuse_prediction()
        if budget is not None:
            check_budget(budget, self.exit_costs)
            if prediction == "anytime":
                self.thresholds = anytime_thresholds(self.exit_costs, budget)

    def _refuse_prediction(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"prediction={self.prediction!r} is unknown; use one of {get_args(Prediction)}")
        if self.prediction == "anytime" and self.budget is None:
            raise ValueError("prediction='anytime' has no budget to keep to; give one, or leave it out")
        if self.budget is not None and self.test_views.name:
            raise ValueError(
                f"budget={self.budget} is of one view of an image, but test_flips or test_shifts ask for several; "
                "leave either out"
            )

    # -- what it is made of --------------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """Layers, scales and exits, from the arguments."""
        names = [field.name for field in dataclasses.fields(Plan) if field.name in self.hparams]
        return Plan(**{name: self.hparams[name] for name in names})

    @abstractmethod
    def configure_backbone(self) -> nn.Module:
        """Build the network of several exits."""

    def configure_losses(self) -> ExitLosses:
        """Tell what the exits learn from: each from its cross-entropy, a scalar."""
        return exit_cross_entropies

    def configure_network(self) -> ExitsNetwork:
        """Make it one stage with a learner an exit."""
        return ExitsNetwork(self.configure_backbone(), self.in_shape, self.configure_losses())

    @functools.cached_property
    def exit_costs(self) -> list[int]:
        """Multiply-adds of one image up to each exit."""
        return exit_costs(self.network.exits, self.in_shape)

    # -- prediction ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Classify images, each at the exit where it leaves; without a budget at the last one.

        Args:
            x: Images, normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.

        Raises:
            ValueError: If there is a budget, but no validation has found thresholds for it. Within a fit, whose first
                validation is still to come, all images go to the last exit.
        """
        if self.budget is None or (self.thresholds is None and self._is_fitting):
            return super().forward(x)
        if self.thresholds is None:
            raise self.without_thresholds()
        return classify(self.network.exits, self.images_of(x), self.thresholds)[0]

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @property
    def evaluates_learners(self) -> bool:
        """Every exit is evaluated."""
        return True

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        super().on_validation_epoch_start()
        self._record.reset()

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left; and refuse a budget that nothing keeps."""
        super().on_test_epoch_start()
        if self.budget is not None and self.thresholds is None:
            raise self.without_thresholds()
        self._record.reset()

    @property
    def _is_fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def without_thresholds(self) -> ValueError:
        """Make the error for a budget that nothing keeps."""
        return ValueError(
            f"budget={self.budget} has no thresholds yet, by which images would leave: a validation finds them; in "
            "Python call Trainer.validate(model, data) first, or train with this budget"
        )

    def on_evaluation(self, evaluation: Evaluation, target: Tensor) -> None:
        """Take note of how sure the exits are, and where they are wrong."""
        if self.budget is not None:
            logits = [evaluation.logits[name] for name in self.network.loss_names]
            self._record.add(logits, target)

    def on_validation_epoch_end(self) -> None:
        """Find the thresholds, and log the split's metrics."""
        super().on_validation_epoch_end()
        if self.budget is None or self.trainer.sanity_checking:
            return
        record = self._record_of_all()
        if self.prediction == "budgeted_batch":
            self.thresholds = thresholds_of_budget(record.confidence, self.exit_costs, self.budget)
        self._log_spent("val", record)

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        super().on_test_epoch_end()
        if self.thresholds is not None:
            self._log_spent("test", self._record_of_all())

    def _record_of_all(self) -> ExitRecord:
        """What all processes have taken note of, in the order of the processes."""
        together = ExitRecord()
        for record in self.exchange.gather(self._record):
            together.extend(record)
        return together

    def _log_spent(self, stage: str, record: ExitRecord) -> None:
        assert self.thresholds is not None
        result = spent(record.confidence, record.wrong, self.exit_costs, self.thresholds)
        self._log_metrics(stage, {"budget/error": result.error, "budget/multiply_adds": result.multiply_adds})

    # -- checkpoints and checks ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `EndToEnd`, with the thresholds."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["exit_thresholds"] = {
            "thresholds": self.thresholds,
            "budget": self.budget,
            "prediction": self.prediction,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `EndToEnd`, with the thresholds, unless they are of another budget."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["exit_thresholds"]
        if saved["budget"] == self.budget and saved["prediction"] == self.prediction:
            self.thresholds = saved["thresholds"]

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """Refuse what could not work with this Trainer and its data.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: The data; None takes the Trainer's.

        Raises:
            ValueError: As `LocalLearner.check`; also if there is a budget, but no validation to find thresholds in.
        """
        super().check(trainer, stage, datamodule)
        if stage == "fit":
            self._refuse_validation(trainer.limit_val_batches != 0)

    def on_train_start(self) -> None:
        """As in `EndToEnd`, once it is known whether there are images to find thresholds on."""
        has_images = getattr(self.trainer.datamodule, "has_validation", True)  # type: ignore[attr-defined]
        self._refuse_validation(self.trainer.enable_validation and has_images)
        super().on_train_start()

    def _refuse_validation(self, is_there: bool) -> None:
        if self.budget is not None and self.prediction == "budgeted_batch" and not is_there:
            raise ValueError(
                f"budget={self.budget} needs images held out to find thresholds on, but this fit has no validation; "
                "validate, or leave the budget out"
            )
