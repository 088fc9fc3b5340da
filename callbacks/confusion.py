"""Which classes are taken for which in the test, and the images that the network is most wrong about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from primenet_lightning.callbacks.figures import new_figure, publish, publish_table, run_folder
from primenet_lightning.callbacks.sample import images_and_labels
from primenet_lightning.training.exchange import gather

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass
class WrongAnswers:
    """Wrong answers, worst first; every tensor is on the CPU and a copy.

    Attributes:
        loss: The head's cross-entropy in nats, ``(errors,)``.
        images: As the network saw them, normalised, ``(errors, channels, height, width)``.
        true: Class indices, ``(errors,)``, int64.
        predicted: Class indices, ``(errors,)``, int64.
        p_true: Probability given to the true class, ``(errors,)``.
        p_predicted: Probability given to the predicted class, ``(errors,)``.
    """

    loss: Tensor
    images: Tensor
    true: Tensor
    predicted: Tensor
    p_true: Tensor
    p_predicted: Tensor

    def __len__(self) -> int:
        return len(self.loss)

    @classmethod
    def of_batch(cls, logits: Tensor, images: Tensor, labels: Tensor, count: int, above: float) -> "WrongAnswers":
        """Copy the worst wrong answers of a batch.

        Args:
            logits: ``(batch, classes)``.
            images: ``(batch, channels, height, width)``.
            labels: Class indices, ``(batch,)``.
            count: How many at most.
            above: Only losses above this one.

        Returns:
            Those of largest cross-entropy, worst first.
        """
        logits = logits.detach().float()
        predicted = logits.argmax(1)
        loss = F.cross_entropy(logits, labels, reduction="none")
        loss = loss.masked_fill(predicted == labels, -torch.inf)
        places = loss.topk(min(count, len(loss))).indices
        places = places[loss[places] > above]
        probabilities = logits[places].softmax(1)
        true, predicted = labels[places], predicted[places]
        parts = (loss[places], images[places], true, predicted)  # indexing by a tensor copies
        sure = (probabilities.gather(1, classes[:, None])[:, 0] for classes in (true, predicted))
        return cls(*(part.cpu() for part in (*parts, *sure)))

    @classmethod
    def worst_of(cls, several: Sequence["WrongAnswers"], count: int) -> "WrongAnswers":
        """Merge, and keep the worst.

        Args:
            several: At least one.
            count: How many at most.

        Returns:
            Those of largest cross-entropy among all, worst first.
        """
        joined = cls(*(torch.cat([getattr(one, part.name) for one in several]) for part in fields(cls)))
        places = joined.loss.topk(min(count, len(joined))).indices
        return cls(*(getattr(joined, part.name)[places] for part in fields(cls)))


class ConfusionAndErrors(Callback):
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

    Attributes:
        confusion: Images by true class (row) and predicted class (column), ``(classes, classes)``, int64, on the CPU;
            None before a test.
        errors: The worst errors of all devices; None before a test.

    Raises:
        ValueError: If ``worst`` is not positive.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ConfusionAndErrors(worst=25)], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | Path | None = None, worst: int = 16) -> None:
        if worst < 1:
            raise ValueError(f"worst={worst} must be at least 1 image")
        self.folder = folder
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
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        pair = images_and_labels(batch)
        if pair is None or not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(pair[1]):
            return
        images, labels = pair
        if self._metric is None:
            self._metric = _matrix(logits.shape[1], logits.device)
        self._metric.update(logits.argmax(1), labels)
        full = self.errors is not None and len(self.errors) == self.worst
        above = float(self.errors.loss[-1]) if self.errors is not None and full else -torch.inf
        new = WrongAnswers.of_batch(logits, images, labels, self.worst, above)
        self.errors = new if self.errors is None else WrongAnswers.worst_of([self.errors, new], self.worst)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring together what the ranks have, and draw it on the first."""
        folder = run_folder(trainer) if self.folder is None else Path(self.folder)
        if trainer.world_size > 1:
            gathered = gather((None if self._metric is None else self._metric.num_classes, self.errors))
            classes = max((count for count, _ in gathered if count is not None), default=None)
            found = [errors for _, errors in gathered if errors is not None]
            self.errors = WrongAnswers.worst_of(found, self.worst) if found else None
            if self._metric is None and classes is not None:  # this rank had no batch, and is still waited for
                self._metric = _matrix(classes, pl_module.device)
        if self._metric is None or self.errors is None:
            return
        self.confusion = self._metric.compute().cpu()
        self._metric = None
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._draw(trainer, pl_module, folder)

    def _draw(self, trainer: Trainer, pl_module: LightningModule, folder: Path) -> None:
        assert self.confusion is not None
        assert self.errors is not None
        oracle = getattr(pl_module, "inference_routing", None) == "oracle"
        prefix = "oracle-" if oracle else ""
        names = class_names(trainer, pl_module, len(self.confusion))
        count = int(self.confusion.sum())
        right = int(self.confusion.diagonal().sum())
        note = ", routed by the labels (oracle)" if oracle else ""
        title = f"test: {right:,} of {count:,} images right ({100 * right / max(count, 1):.2f}%){note}"
        publish(draw_confusion(self.confusion, names, title), f"{prefix}confusion", trainer, folder)
        rows = [[name, *row] for name, row in zip(names, self.confusion.tolist(), strict=True)]
        publish_table(f"{prefix}confusion", ["true", *(f"as {name}" for name in names)], rows, trainer, folder)

        pixels = to_pixels(self.errors.images, *normalization(trainer, pl_module))
        shown = f"the {len(pixels)} worst of " if len(pixels) < count - right else ""
        title = f"test: {shown}{count - right:,} errors in {count:,} images{note}"
        publish(draw_errors(self.errors, pixels, names, title), f"{prefix}errors", trainer, folder)
        columns, rows = errors_table(self.errors, pixels, names)
        publish_table(f"{prefix}errors", columns, rows, trainer, folder)


def _matrix(classes: int, device: torch.device) -> MulticlassConfusionMatrix:
    # whoever computed a loss has checked the labels; checking them again would wait for the device
    return MulticlassConfusionMatrix(classes, validate_args=False).to(device)


def _described(trainer: Trainer, pl_module: LightningModule, what: str) -> Any:
    """What the data module, or else the model's checkpoint, says of the data."""
    description = getattr(pl_module, "data_description", None) or {}
    value = getattr(getattr(trainer, "datamodule", None), what, None)
    return description.get(what) if value is None else value


def class_names(trainer: Trainer, pl_module: LightningModule, count: int) -> list[str]:
    """Say what the classes are called.

    Args:
        trainer: Whose data module may know.
        pl_module: Whose checkpoint may know.
        count: Number of classes.

    Returns:
        The names, or indices where nobody knows as many.
    """
    names = _described(trainer, pl_module, "class_names")
    return [str(name) for name in names] if names and len(names) == count else [str(i) for i in range(count)]


def normalization(trainer: Trainer, pl_module: LightningModule) -> tuple[Any, Any]:
    """Tell how the images were normalised.

    Args:
        trainer: Whose data module may know.
        pl_module: Whose checkpoint may know.

    Returns:
        Mean and standard deviation per channel, with pixels measured from 0 to 1; None where nobody knows.
    """
    return _described(trainer, pl_module, "mean"), _described(trainer, pl_module, "std")


def to_pixels(images: Tensor, mean: Any = None, std: Any = None) -> list[Any]:
    """Make normalised images visible.

    Args:
        images: ``(images, channels, height, width)``.
        mean: Per channel, subtracted at normalisation. Without it, or if it does not fit, each image is stretched
            from black to white.
        std: Per channel, divided by.

    Returns:
        Arrays, uint8, ``(height, width, 3)`` for three channels, else ``(height, width)``, the mean over channels.

    Example:
        >>> to_pixels(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3), mean=(0.5,), std=(0.5,))[0].tolist()
        [[0, 128, 255]]
    """
    images = images.float()
    known = [None if given is None else torch.as_tensor(given).float().flatten() for given in (mean, std)]
    if images.numel() and all(part is not None and len(part) in (1, images.shape[1]) for part in known):
        shift, scale = (part.view(1, -1, 1, 1) for part in known if part is not None)
        images = images * scale + shift
    elif images.numel():
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp_min(1e-12)
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True)
    pixels = (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    return [image.permute(1, 2, 0).squeeze(2).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
            for image in pixels]  # fmt: skip


def errors_table(errors: WrongAnswers, pixels: Sequence[Any], names: Sequence[str]) -> tuple[list[str], list[Any]]:
    """List errors with their images.

    Args:
        errors: The errors.
        pixels: Their images, uint8 arrays.
        names: What the classes are called.

    Returns:
        Names of the columns, and the rows; without errors, no column for images.
    """
    columns = ["image", "true", "predicted", "loss (nats)", "p(true)", "p(predicted)"]
    numbers = (errors.true, errors.predicted, errors.loss, errors.p_true, errors.p_predicted)
    rows = [
        [image, names[true], names[predicted], *rest]
        for image, true, predicted, *rest in zip(pixels, *(part.tolist() for part in numbers), strict=True)
    ]
    return (columns if rows else columns[1:]), rows


def draw_confusion(confusion: Tensor, names: Sequence[str], title: str) -> "Figure":
    """Draw a confusion matrix: counts as numbers where they fit, percent of each row as colour.

    Args:
        confusion: ``(classes, classes)``, rows true, columns predicted.
        names: What the classes are called.
        title: Above it.

    Returns:
        The figure.
    """
    from matplotlib.colors import PowerNorm

    percent = 100 * confusion / confusion.sum(1, keepdim=True).clamp_min(1)
    figure = new_figure(6, 5.6)
    axes = figure.subplots()
    # the square root lets one percent be seen beside a hundred
    picture = axes.imshow(percent.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("percent of the true class's images")
    bar.ax.tick_params(labelsize=8)
    _name_classes(axes, names)
    cell = 400 / len(names)  # pixels
    size = 8 if len(names) <= 10 else 7
    if cell >= 0.9 * size * len(str(int(confusion.max()))) + 3 and cell >= 2 * size:
        for row, column in confusion.nonzero().tolist():
            colour = "white" if percent[row, column] > 35 else "black"
            text = str(int(confusion[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    axes.set_title(title, fontsize=10)
    return figure


def _name_classes(axes: "Axes", names: Sequence[str]) -> None:
    """Write as many of the names as have room, evenly."""
    every = -(-len(names) * 16 // 400)
    places = range(0, len(names), every)
    shown = [_short(names[place], 14) for place in places]
    axes.set_xticks(places, shown, rotation=0 if max(map(len, shown)) * len(shown) <= 40 else 90, fontsize=8)
    axes.set_yticks(places, shown, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")


def draw_errors(errors: WrongAnswers, pixels: Sequence[Any], names: Sequence[str], title: str) -> "Figure":
    """Draw wrongly classified images, four in a row, worst first.

    Args:
        errors: The errors.
        pixels: Their images, uint8 arrays.
        names: What the classes are called.
        title: Above them.

    Returns:
        The figure.
    """
    rows = -(-len(pixels) // 4)
    figure = new_figure(6, max(1.0, 0.5 + 1.75 * rows))
    figure.suptitle(title, fontsize=10)
    if not pixels:
        figure.text(0.5, 0.4, "no errors", ha="center", va="center")
        return figure
    all_axes = figure.subplots(rows, 4, squeeze=False).flatten()
    for axes in all_axes:
        axes.axis("off")
    for axes, image, loss, true, predicted in zip(
        all_axes, pixels, errors.loss.tolist(), errors.true.tolist(), errors.predicted.tolist(), strict=False
    ):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"{_from_to(names[true], names[predicted])}\nloss {loss:.2f} nats", fontsize=8)
    return figure


def _from_to(true: str, predicted: str) -> str:
    """What was taken for what, in two lines if it is too long for one."""
    text = f"{true} \u2192 {predicted}"
    return text if len(text) <= 22 else f"{_short(true, 20)} \u2192\n{_short(predicted, 22)}"


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}\u2026"
