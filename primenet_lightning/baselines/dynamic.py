"""What networks of dynamic cost and several phases have in common as LightningModules."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.systems.dynamic import DynamicNetwork
from primenet_lightning.nn.systems.phases import Position
from primenet_lightning.training.counting import LearnerMetrics
from primenet_lightning.training.evaluator import Batch
from primenet_lightning.training.learner import LocalLearner
from primenet_lightning.training.progress import refuse_other_length


class ImageMeans(nn.Module):
    """Means over the images of a split, on all ranks together.

    Args:
        names: Of what is measured.

    Example:
        >>> import torch
        >>> means = ImageMeans(["steps"])
        >>> means.update({"steps": torch.tensor([1.0, 2.0, 6.0])})
        >>> means.compute()
        {'steps': tensor(3.)}
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.means = nn.ModuleList(MeanMetric() for _ in names)

    def update(self, measures: Mapping[str, Tensor]) -> None:
        """Take a batch.

        Args:
            measures: ``(batch,)`` by name.
        """
        for name, mean in zip(self.names, self.means, strict=True):
            mean.update(measures[name].float())  # type: ignore[operator]

    def compute(self) -> dict[str, Tensor]:
        """The means since the last reset, scalars by name."""
        return {name: mean.compute() for name, mean in zip(self.names, self.means, strict=True)}  # type: ignore[operator]

    def reset(self) -> None:
        """Forget everything."""
        for mean in self.means:
            mean.reset()  # type: ignore[operator]


class DynamicLearner(LocalLearner, ABC):
    """Trains a `DynamicNetwork` through its phases, and answers by its policy.

    Logged by epoch, for val and test, beside what `Evaluator` logs: ``multiply_adds``, the mean of what images really
    took, and what the network measures. In a fit, validations before the policy has begun to learn are logged as
    ``val/<phase>/...``: no checkpoint of then is chosen as the best one.

    Args:
        **learning: Of `LocalLearner`.
    """

    network: DynamicNetwork

    LAID_OUT = ("phases",)

    def __init__(self, **learning: Any) -> None:
        learning["local"] = False
        super().__init__(**learning)
        self._start = 0
        self._steps = 0

    def build(self) -> None:
        """Build the network, and what counts; see `Evaluator.build`."""
        super().build()
        names = ["multiply_adds", *self.network.measure_names]
        self.val_means = ImageMeans(names)
        self.test_means = ImageMeans(names)

    # -- phases --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizers, and lay the phases out over the fit, which has to have an end."""
        if self.trainer.state.fn == "fit":
            self._start, self._steps = self.span_of_fit(f"{type(self).__name__}, whose fit has phases,")
        return super().configure_optimizers()

    @property
    def is_complete(self) -> bool:
        """Whether the policy has begun to learn, so that these weights may be chosen as the best ones."""
        return self.network.decides

    def on_train_start(self) -> None:
        """Go on where the run that is resumed was saved; a new one draws from its seed on.

        Raises:
            ValueError: As `check_resumed`.
        """
        if not self.resumption.is_resumed:
            torch.manual_seed(torch.initial_seed())  # as Lightning does where there are several processes
        super().on_train_start()

    def check_resumed(self, checkpoint: Mapping[str, Any]) -> None:
        """As in `LocalLearner`; and refuse to begin the phases at other steps than in the run that is resumed.

        Args:
            checkpoint: Entries `LAID_OUT` of the run's checkpoint.

        Raises:
            ValueError: If the fit has another length, or its phases other shares of it.
        """
        super().check_resumed(checkpoint)
        before = checkpoint.get("phases")
        if before is None:
            return
        refuse_other_length("the phases", before[-1][-1], self._steps)
        if before != self._phases_of_fit():
            raise ValueError(
                "the phases of the run that is resumed began at other steps; resume with the same shares of phases, or "
                "start a new run"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `LocalLearner`, with the phases of the fit."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["phases"] = self._phases_of_fit() if self._steps else None

    def _phases_of_fit(self) -> list[list[Any]]:
        return [list(span) for span in self.network.stage.timetable_of(self._steps).spans]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tell the network where the fit is."""
        super().on_train_batch_start(batch, batch_idx)
        self.network.position = Position(self.global_step - self._start, self._steps)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def metric_prefix(self, stage: str) -> str:
        """Metrics of a validation before the policy learns say so in their name."""
        if stage == "val" and self.trainer.state.fn == "fit" and not self.network.decides:
            return f"{stage}/{self.network.phase}"
        return stage

    def forward(self, x: Tensor) -> Tensor:
        """Classify images, each at the cost that it needs; as in `Evaluator`."""
        return self.network.classify(self.images_of(x)).logits

    def _evaluate(self, metrics: LearnerMetrics, batch: Batch) -> Tensor:
        """Count a batch; the logits."""
        images, target = self.images_and_target(batch)
        answer = self.network.classify(images)
        metrics.update({HEAD: answer.logits}, target, {HEAD: cross_entropy(answer.logits, target)})
        means = self.test_means if metrics is self.test_metrics else self.val_means
        means.update({"multiply_adds": answer.multiply_adds, **answer.measures})
        return answer.logits

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        super().on_validation_epoch_start()
        self.val_means.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics."""
        super().on_validation_epoch_end()
        self._log_metrics("val", self.val_means.compute())

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left."""
        super().on_test_epoch_start()
        self.test_means.reset()

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        super().on_test_epoch_end()
        self._log_metrics("test", self.test_means.compute())
