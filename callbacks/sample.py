"""A fixed, class-balanced sample of the validation images, collected as they pass by; callbacks that look at it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from primenet_lightning.callbacks.figures import run_folder
from primenet_lightning.files import without_stopping
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.layers import trial_run


class BalancedSample:
    """Copies of the first images of each class that a validation shows.

    Validation images come in a fixed order, so that every epoch, and a resumed run, has the same sample; no further
    pass over the data is made. Images are kept on the CPU as the network sees them, normalised. On several devices
    each rank has a sample of its own share.

    Args:
        size: Images in all; each class gets its part, the first classes one more where it does not divide.
        num_classes: Number of classes.

    Attributes:
        images: ``(images, channels, height, width)``, in the order of their coming; empty before the first batch.
        labels: Class indices, ``(images,)``, int64.

    Raises:
        ValueError: If ``size`` is smaller than the number of classes.

    Example:
        >>> sample = BalancedSample(size=4, num_classes=2)
        >>> sample.add(torch.arange(6.0).view(6, 1, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> sample.images.flatten().tolist(), sample.labels.tolist(), sample.full
        ([0.0, 1.0, 3.0, 4.0], [0, 0, 1, 1], True)
    """

    def __init__(self, size: int, num_classes: int) -> None:
        if size < num_classes:
            raise ValueError(f"size={size} is too small for {num_classes} classes; give at least one image a class")
        parts = [size // num_classes + (label < size % num_classes) for label in range(num_classes)]
        self._wanted = torch.tensor(parts)
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether every class has its images."""
        return not bool(self._wanted.any())

    @property
    def images(self) -> Tensor:
        """The images so far, ``(images, channels, height, width)``; empty before the first batch."""
        return torch.cat(self._images) if self._images else torch.empty(0)

    @property
    def labels(self) -> Tensor:
        """Their labels, ``(images,)``, int64."""
        return torch.cat(self._labels) if self._labels else torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return sum(len(labels) for labels in self._labels)

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Take from a batch what is still wanted.

        Args:
            images: ``(batch, channels, height, width)``; what is taken is copied, the batch itself is not held.
            labels: Class indices, ``(batch,)``.
        """
        if self.full:
            return
        labels = labels.cpu()
        chosen = []
        for label in self._wanted.nonzero().flatten().tolist():
            places = (labels == label).nonzero().flatten()[: int(self._wanted[label])]
            self._wanted[label] -= len(places)
            chosen.append(places)
        order = torch.cat(chosen).sort().values
        if len(order):
            self._images.append(images[order.to(images.device)].cpu())  # a gather is a copy
            self._labels.append(labels[order])


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor] | None:
    """Take a batch apart, if it is a pair of images and class indices.

    Args:
        batch: Of any data module.

    Returns:
        Images ``(batch, channels, height, width)`` and class indices ``(batch,)``; None for a batch of another kind.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        images, labels = batch
        if isinstance(images, Tensor) and isinstance(labels, Tensor) and images.dim() == 4 and labels.dim() == 1:
            return images, labels
    return None


class SampleCallback(Callback, ABC):
    """Looks at a fixed sample of the validation images, every so many epochs and when the fit ends.

    The sample is copied out of the first validation of the fit that is not the sanity check, on rank 0; later ones
    would only show the same images again. All further work is rank 0's too, and calls no collective.

    Args:
        every_n_epochs: How often; None only when the fit ends.
        folder: Where figures go; None takes `run_folder`.

    Raises:
        ValueError: If ``every_n_epochs`` is not positive.
    """

    def __init__(self, every_n_epochs: int | None, folder: str | Path | None) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs} must be at least 1 epoch, or None for the end only")
        self.every_n_epochs = every_n_epochs
        self.folder = folder
        self._sample: BalancedSample | None = None
        self._collected = False
        self._looked_at: tuple[int, int] = (0, -1)  # epochs that were done, and the last batch

    @abstractmethod
    def check(self, model: PrimeNet) -> int:
        """Refuse a model that could not be looked at.

        Args:
            model: The model that is to be fitted.

        Returns:
            How many images are wanted.

        Raises:
            ValueError: If it could not.
        """

    @abstractmethod
    def look(self, trainer: Trainer, model: PrimeNet, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Do the work, on rank 0.

        Args:
            trainer: The Trainer.
            model: The model.
            sample: At least one image.
            epoch: Epochs done so far.
            folder: The run's folder.
        """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the model and ask for the folder, while all ranks are at the same place."""
        self._sample, self._collected = None, False
        if not isinstance(pl_module, PrimeNet):
            rank_zero_warn(f"{type(self).__name__} has nothing to show: {type(pl_module).__name__} is no PrimeNet")
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._sample = BalancedSample(self.check(pl_module), pl_module.num_classes)
            self._folder = run_folder(trainer) if self.folder is None else Path(self.folder)

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
        if _in_fit(trainer) and (pair := images_and_labels(batch)) is not None:
            self._sample.add(*pair)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if so many epochs have passed."""
        if not _in_fit(trainer):
            return
        self._collected = True  # a small split never fills the sample; a second pass would only repeat it
        epoch = trainer.current_epoch + int(trainer.is_last_batch)
        every = self.every_n_epochs
        if every is not None and epoch // every > self._looked_at[0] // every:
            self._look(trainer, pl_module, epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look a last time, unless nothing was trained since the last time."""
        if self._looked_at[1] != trainer.fit_loop.total_batch_idx:
            self._look(trainer, pl_module, trainer.current_epoch)

    def _look(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        # the ranks' samples differ, so nothing below may be a collective
        self._looked_at = (epoch, trainer.fit_loop.total_batch_idx)
        if self._sample is not None and len(self._sample) and trainer.is_global_zero:
            assert isinstance(pl_module, PrimeNet)
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
