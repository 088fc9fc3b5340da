"""A LightningModule that predicts and evaluates a row of stages, whoever trained it."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence, Sized
from typing import Any, TypeVar

from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.deferring import DeferredNetwork, is_deferring
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.names import HEAD
from primenet_lightning.nn.network import Evaluation, StagedNetwork
from primenet_lightning.training.counting import EpochLosses, LateCounting, LearnerMetrics, losses_last
from primenet_lightning.training.exchange import ALONE, Exchange
from primenet_lightning.training.section import Section
from primenet_lightning.training.views import Views

Value = TypeVar("Value")

Batch = tuple[Tensor, Tensor]
"""Images ``(batch, channels, height, width)``, and class indices ``(batch,)``."""


class Evaluator(LightningModule, metaclass=CheckedArguments):
    """Predicts by a network, and counts over a split what its learners answer.

    A subclass says which network, in `configure_network`; its constructor ends with ``self.build()``, which calls it.

    Logged by epoch, for val and test: ``accuracy`` and ``error`` (%) of the head, ``accuracy/<name>`` and
    ``error/<name>`` of every other learner that classifies, ``loss/<name>`` of all. For test also ``accuracy_<views>``
    and ``error_<views>`` of the head's logits averaged over several views of each image, as ``error_flips``, where
    these are asked for; never in place of the plain ones.

    Attributes:
        network: A row of stages.
        num_classes: Number of classes.
        test_views: Over which views of each test image the logits are averaged; none by default.
        deferred: The way to the first weights, if the network was built without memory and has none yet.
        exchange: With the other processes that run them.
    """

    network: StagedNetwork
    num_classes: int
    test_views: Views = Views()
    deferred: DeferredNetwork[StagedNetwork] | None = None
    _section: Section | None = None
    exchange: Exchange = ALONE

    @abstractmethod
    def configure_network(self) -> StagedNetwork:
        """Build the network; a subclass's own arguments are in ``self.hparams``, its attributes may not yet be set."""

    def build(self) -> None:
        """Build the network, and what counts its learners' answers; the last thing that a constructor does.

        Raises:
            TypeError: If `configure_network` gives something else.
        """
        if is_deferring():
            self.deferred = DeferredNetwork(self.configure_network)
        network: Any = self.configure_network() if self.deferred is None else self.deferred.network
        if not isinstance(network, StagedNetwork):
            raise TypeError(
                f"{type(self).__name__}.configure_network gives a {type(network).__name__}, which is no StagedNetwork; "
                "wrap it in a WholeNetwork, or subclass EndToEnd and override configure_backbone"
            )
        self.network = network
        names = self.network.loss_names
        self.train_metrics = LearnerMetrics(names, self.num_classes)
        self.val_metrics = LearnerMetrics(names, self.num_classes)
        self.test_metrics = LearnerMetrics(names, self.num_classes)
        self.test_views_accuracy = MulticlassAccuracy(self.num_classes, average="micro")
        self._late = LateCounting(self.train_metrics)
        self._epoch_losses = EpochLosses()

    def fill(self, without: Collection[Tensor] = ()) -> None:
        """Give a network that was built without memory its first weights; nothing is done to any other.

        Args:
            without: Parameters and buffers, of any shape ``(...)``, that stay without memory.
        """
        if self.deferred is not None:
            self.deferred.fill(without)
            self.deferred = None

    @property
    def section(self) -> Section:
        """The stages that this process runs: all of the network, unless a pipeline has set others."""
        if self._section is None or self._section.network is not self.network:  # a network was put in its place
            self._section = Section(self.network)
        return self._section

    @section.setter
    def section(self, section: Section) -> None:
        self._section = section

    # -- prediction ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Classify images without labels, computing only what is needed.

        Args:
            x: Images, normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        return self.section.predict(self.images_of(x))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Give class probabilities.

        Args:
            batch: Images, or a sequence whose first element are the images.
            batch_idx: Index of the batch.
            dataloader_idx: Which of several loaders it is of.

        Returns:
            ``(batch, classes)``, float32.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(images)
        return logits.float().softmax(1)

    def images_of(self, images: Tensor) -> Tensor:
        """Bring images to the network's precision (bfloat16 under ``bf16-true``).

        Args:
            images: Normalised, ``(batch, channels, height, width)``.

        Returns:
            The same, ``(batch, channels, height, width)``, in the type of the parameters.

        Raises:
            ValueError: If they are integers.
        """
        if not images.is_floating_point():
            raise ValueError(
                f"images have dtype {images.dtype}; normalise them to floating point, as ImageDataModule does"
            )
        return images.to(self.dtype)

    def images_and_target(self, batch: Any) -> Batch:
        """Take a batch that has labels apart.

        Args:
            batch: Images, normalised, ``(batch, channels, height, width)``, and class indices, ``(batch,)``.

        Returns:
            Images in the network's precision, ``(batch, channels, height, width)``, and class indices, int64
            ``(batch,)``.

        Raises:
            ValueError: If the batch has other parts, or if its labels are no class indices.
        """
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise ValueError(f"a batch must be (images, labels), but this is {_described(batch)}")
        images, target = batch
        if target.dim() != 1 or target.is_floating_point() or len(target) != len(images):
            raise ValueError(
                f"labels have shape {tuple(target.shape)} and dtype {target.dtype}, but must be class indices, one "
                f"integer for each of the {len(images)} images; the soft labels of MixUp and CutMix are not taken"
            )
        if target.device.type == "cpu" and len(target):  # on a GPU it would have to be waited for
            least, most = int(target.min()), int(target.max())
            if least < 0 or most >= self.num_classes:
                raise ValueError(
                    f"labels go from {least} to {most}, but num_classes={self.num_classes} are counted from 0; give "
                    "labels from 0 to num_classes - 1"
                )
        return self.images_of(images), target.long()

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @property
    def evaluates_learners(self) -> bool:
        """Whether validation and test run every learner, or only what predicts."""
        return self.network.local

    @property
    def is_complete(self) -> bool:
        """Whether the network has the parts that it will predict with; before that no weights of it are the best."""
        return True

    def on_validation_epoch_start(self) -> None:
        """Forget what an aborted validation may have left."""
        self.val_metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count on one batch of the validation split.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.
        """
        self._evaluate(self.val_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the split's metrics."""
        self._log_metrics("val", self.results_of(self.val_metrics))

    def on_test_model_eval(self) -> None:
        """Learn from the other sections what a label-free forward depends on."""
        self.section.settle()
        super().on_test_model_eval()

    def on_predict_model_eval(self) -> None:
        """Learn from the other sections what a label-free forward depends on."""
        self.section.settle()
        super().on_predict_model_eval()

    def on_test_epoch_start(self) -> None:
        """Forget what an aborted test may have left."""
        self.test_metrics.reset()
        self.test_views_accuracy.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Count on one batch of the test split.

        Args:
            batch: Images ``(batch, channels, height, width)``, normalised, and class indices ``(batch,)``.
            batch_idx: Index of the batch in the split.

        Returns:
            For callbacks ``"logits"`` of the head, ``(batch, classes)``, of the images as they are; where views are
            averaged, also ``"logits_of_views"``. Both are of no image where another process has the head.
        """
        logits = self._evaluate(self.test_metrics, batch)
        if not self.test_views.name:
            return {"logits": logits}
        images, target = self.images_and_target(batch)
        averaged = self.test_views.averaged(images, logits, self)
        if self.section.has_head:
            self.test_views_accuracy.update(averaged, target)
        return {"logits": logits, "logits_of_views": averaged}

    def on_test_epoch_end(self) -> None:
        """Log the split's metrics."""
        averaged: dict[str, Tensor] = {}
        views = self.test_views.name
        if views and self.section.has_head:
            accuracy = self.test_views_accuracy.compute()
            averaged = {f"accuracy_{views}": accuracy, f"error_{views}": 100 * (1 - accuracy)}
        self._log_metrics("test", self.results_of(self.test_metrics, averaged))

    def results_of(self, metrics: LearnerMetrics, others: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Give what was counted of the learners of all processes; every process has to ask.

        Args:
            metrics: Which have counted.
            others: Scalars of this process to give with them.

        Returns:
            Scalars, as `LearnerMetrics.compute`.
        """
        counted = self.without_pruned(metrics.compute()) | dict(others or {})
        return losses_last(self.section.collect(counted))

    def _evaluate(self, metrics: LearnerMetrics, batch: Batch) -> Tensor:
        """Count a batch; the head's logits."""
        images, target = self.images_and_target(batch)
        if not self.evaluates_learners:
            logits: Tensor = self(images)
            if self.section.has_head:
                metrics.update({HEAD: logits}, target, {HEAD: cross_entropy(logits, target)})
            return logits
        evaluation = self.section.evaluate(images, target)
        losses = dict(evaluation.losses)
        if evaluation.total is not None:
            losses["total"] = evaluation.total
        metrics.update(evaluation.logits, target, losses)
        self.on_evaluation(evaluation, target)
        if not self.section.has_head:
            return images.new_zeros(0, self.num_classes)
        return evaluation.logits[HEAD]

    def on_evaluation(self, evaluation: Evaluation, target: Tensor) -> None:
        """Take note of what all learners answered to a batch; for subclasses.

        Args:
            evaluation: Of the batch.
            target: Class indices, ``(batch,)``.
        """

    def without_pruned(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Leave out what is of learners that were pruned.

        Args:
            values: By learner, or by a metric's path that ends in the learner's name.

        Returns:
            Those of learners that are there, and of no learner's.
        """
        endings = tuple(f"/{name}" for name in self.network.loss_names)
        # with a slash before it a bare name is a path, too; names of capsules may have slashes themselves
        return {key: value for key, value in values.items() if "." not in key or f"/{key}".endswith(endings)}

    def metric_prefix(self, stage: str) -> str:
        """Tell what the names of metrics begin with.

        Args:
            stage: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            What stands before the first slash, or more where a result is not to be mistaken for another.
        """
        return stage

    def _log_metrics(self, stage: str, results: Mapping[str, Tensor | float], logger: bool | None = None) -> None:
        """Log what torchmetrics has counted over all ranks."""
        prefix = self.metric_prefix(stage)
        for name, value in results.items():
            self.log(
                f"{prefix}/{name}",
                value,
                prog_bar=(stage, name) == ("val", "error"),
                logger=logger,
                # the ranks agree already, and the maximum of equal numbers is that number, to the last bit
                sync_dist=self.exchange is not ALONE,
                reduce_fx="max",
            )


def _described(batch: Any) -> str:
    kind = f"a {type(batch).__name__}"
    return f"{kind} of {len(batch)}" if isinstance(batch, Sized) else kind
