"""Which classes are taken for which in the test, and the images that the network is most wrong about."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from primenet_lightning.analysis.sample import images_and_labels
from primenet_lightning.analysis.views import as_pixels
from primenet_lightning.analysis.wrong_answers import WrongAnswers, confusion_table, errors_table
from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.callbacks.publishing import (
    class_names,
    folder_of,
    normalization,
    publish,
    publish_table,
    refuse_format,
)
from primenet_lightning.figures.confusion import draw_confusion, draw_errors
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.training.exchange import gather


class ConfusionAndErrors(Callback, metaclass=CheckedArguments):
    """Draw the confusion matrix of a test, and its worst errors with their images.

    Works with every module whose ``test_step`` returns a mapping with ``"logits"``, ``(batch, classes)``, from batches
    of images and class indices; all test loaders together. Of the images only the worst so far are kept. On several
    devices the matrix and the errors are those of all.

    The pictures are ``figures/confusion.png``, ``figures/errors.png``, the numbers ``confusion.csv`` and
    ``errors.csv`` beside them; where labels helped to route (``inference_routing="oracle"``) the names begin with
    ``oracle-``. Classes are called as in the data module, or as in the checkpoint's description of the data, else by
    their indices; from there comes also the normalisation that is undone for display.

    Args:
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        worst: How many errors are shown.
        figure_format: Kind of the files: ``"png"``, ``"svg"`` or ``"pdf"``, which comes with a PNG beside it.

    Attributes:
        confusion: Images by true class (row) and predicted class (column), ``(classes, classes)``, int64, on the CPU;
            None before a test.
        errors: The worst errors of all devices; None before a test.

    Raises:
        ValueError: If ``worst`` is not positive, or ``figure_format`` is unknown.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ConfusionAndErrors(worst=25)], logger=False, enable_checkpointing=False)
    """

    needs_whole_network: ClassVar[bool] = True
    """A pipeline, whose processes have parts of it, refuses it."""

    def __init__(self, folder: str | Path | None = None, worst: int = 16, figure_format: FigureFormat = "png") -> None:
        at_least(1, "image", worst=worst)
        refuse_format(figure_format)
        self.folder = folder
        self.figure_format = figure_format
        self.worst = worst
        self.confusion: Tensor | None = None
        self.errors: WrongAnswers | None = None
        self._metric: MulticlassConfusionMatrix | None = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the test before."""
        self.confusion = self.errors = self._metric = None

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and copy what of it is among the worst so far."""
        answered = _logits_images_labels(outputs, batch)
        if answered is None:
            return
        logits, images, labels = answered
        if self._metric is None:
            self._metric = _matrix(logits.shape[1], logits.device)
        self._metric.update(logits.argmax(1), labels)
        above = -torch.inf
        if self.errors is not None and len(self.errors) == self.worst:
            above = float(self.errors.loss[-1])
        errors = WrongAnswers.of_batch(logits, images, labels, self.worst, above)
        if self.errors is not None:
            errors = WrongAnswers.worst_of([self.errors, errors], self.worst)
        self.errors = errors

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what the ranks have, and draw it on the first."""
        folder = folder_of(trainer, self.folder)
        if trainer.world_size > 1:
            self._bring_together(pl_module.device)
        if self._metric is None or self.errors is None:
            return
        self.confusion = self._metric.compute().cpu()
        self._metric = None
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._draw(trainer, pl_module, folder)

    def _bring_together(self, device: torch.device) -> None:
        """Take the worst errors of all ranks, and let every rank have a matrix, which waits for all."""
        classes_here = None if self._metric is None else self._metric.num_classes
        classes_known: list[int] = []
        errors_by_rank: list[WrongAnswers] = []
        for classes, errors in gather((classes_here, self.errors)):
            if classes is not None:
                classes_known.append(classes)
            if errors is not None:
                errors_by_rank.append(errors)
        if errors_by_rank:
            self.errors = WrongAnswers.worst_of(errors_by_rank, self.worst)
        if self._metric is None and classes_known:  # this rank had no batch
            self._metric = _matrix(max(classes_known), device)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, folder: Path) -> None:
        assert self.confusion is not None
        assert self.errors is not None
        prefix, note = "", ""
        if getattr(pl_module, "inference_routing", None) == "oracle":
            prefix, note = "oracle-", ", routed by the labels (oracle)"
        names = class_names(trainer, pl_module, len(self.confusion))
        count = int(self.confusion.sum())
        right = int(self.confusion.diagonal().sum())

        # the matrix
        title = f"test: {right:,} of {count:,} images right ({100 * right / max(count, 1):.2f} %){note}"
        figure = draw_confusion(self.confusion, names, title)
        publish(figure, f"{prefix}confusion", trainer, folder, self.figure_format)
        publish_table(f"{prefix}confusion", *confusion_table(self.confusion, names), trainer, folder)

        # the errors
        pixels = list(as_pixels(self.errors.images, *normalization(trainer, pl_module)).numpy())
        all_or_worst = ""
        if len(pixels) < count - right:
            all_or_worst = f"the {len(pixels)} worst of "
        title = f"test: {all_or_worst}{count - right:,} errors in {count:,} images{note}"
        figure = draw_errors(self.errors, pixels, names, title)
        publish(figure, f"{prefix}errors", trainer, folder, self.figure_format)
        publish_table(f"{prefix}errors", *errors_table(self.errors, pixels, names), trainer, folder)


def _logits_images_labels(outputs: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """What a module says of a batch, and the batch; None where they are of another kind."""
    pair = images_and_labels(batch)
    if pair is None or not isinstance(outputs, Mapping):
        return None
    images, labels = pair
    logits = outputs.get("logits")
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        return None
    return logits, images, labels


def _matrix(classes: int, device: torch.device) -> MulticlassConfusionMatrix:
    # whoever computed a loss has checked the labels; checking them again would wait for the device
    return MulticlassConfusionMatrix(classes, validate_args=False).to(device)
