"""Features in memory, for a classifier that is trained on them alone."""

from collections.abc import Mapping
from typing import NamedTuple

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from primenet_lightning.datamodules.attached import gpu_of, ranks_of
from primenet_lightning.datamodules.in_memory import ImageTensors
from primenet_lightning.datamodules.loader import BatchLoader
from primenet_lightning.datamodules.samplers import EpochBatchSampler, OrderedBatchSampler


class SplitFeatures(NamedTuple):
    """The features of one split, in the order of its images.

    Attributes:
        features: ``(images, features)``, float32, on the CPU.
        labels: Class indices, ``(images,)``, int64.
    """

    features: Tensor
    labels: Tensor


class FeatureDataModule(LightningDataModule):
    """Features in memory, a whole batch by one gather; each epoch's order depends on seed and epoch alone.

    Args:
        splits: ``"train"``, ``"validation"`` and ``"test"``, as `extract_features` gives them.
        batch_size: Images in a training batch over all devices.
        seed: Of the order.

    Raises:
        ValueError: If a split is missing, empty or not finite, or the splits disagree in the number of features;
            as soon as a loader is asked for, if ``batch_size`` is below 1.

    Example:
        >>> import torch
        >>> split = SplitFeatures(torch.randn(70, 5), torch.arange(70) % 2)
        >>> data = FeatureDataModule({"train": split, "validation": split, "test": split})
        >>> [len(labels) for _, labels in data.train_dataloader()]
        [32, 38]
    """

    def __init__(self, splits: Mapping[str, SplitFeatures], batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        _check_splits(splits)
        self.splits = dict(splits)
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the training batches, in an order of their own each epoch."""
        split = self.splits["train"]
        size, rank = ranks_of(self.trainer)
        sampler = EpochBatchSampler(len(split.labels), self.batch_size, seed=self.seed, num_replicas=size, rank=rank)
        return BatchLoader(ImageTensors(*split), sampler, pin_memory=gpu_of(self.trainer) is not None)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the validation batches, in order."""
        return self._eval_loader("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the test batches, in order."""
        return self._eval_loader("test")

    def _eval_loader(self, name: str) -> DataLoader[tuple[Tensor, Tensor]]:
        split = self.splits[name]
        size, rank = ranks_of(self.trainer)
        sampler = OrderedBatchSampler(len(split.labels), 1000 * size, num_replicas=size, rank=rank)
        return BatchLoader(ImageTensors(*split), sampler, pin_memory=gpu_of(self.trainer) is not None)


def _check_splits(splits: Mapping[str, SplitFeatures]) -> None:
    for name in ("test", "train", "validation"):
        if name not in splits:
            raise ValueError(f"splits has no {name!r}; give 'train', 'validation' and 'test'")
    width = splits["train"].features.shape[1:]
    for name, (features, labels) in splits.items():
        if features.dim() != 2 or features.shape[1:] != width or len(features) != len(labels) or not len(labels):
            raise ValueError(
                f"the {name} features have shape {tuple(features.shape)} for {len(labels)} labels; give "
                f"(images, {', '.join(map(str, width))}), one label each, of at least one image"
            )
        if not bool(features.isfinite().all()):
            raise ValueError(
                f"the {name} features are not finite: the network that they are of has diverged, or its images have "
                "NaN; probe another run"
            )
