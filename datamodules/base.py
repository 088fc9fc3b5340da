"""The data module every data set here derives from: uint8 images in memory, fed a whole batch at a time."""

import math
import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.datamodules.attached import batches_done_by, gpu_of, ranks_of
from primenet_lightning.datamodules.augmenting import Augmentation, augmented, refuse_augmentation, set_epoch
from primenet_lightning.datamodules.classes import check_class_names, refuse_empty_classes, require_every_class
from primenet_lightning.datamodules.image_files import ImageFiles
from primenet_lightning.datamodules.in_memory import Array, ImageTensors, to_image_tensor, to_label_tensor
from primenet_lightning.datamodules.loader import BatchLoader
from primenet_lightning.datamodules.normalization import Normalize, standard_statistics
from primenet_lightning.datamodules.options import check_options, refuse_to_validate
from primenet_lightning.datamodules.pictures import Fit
from primenet_lightning.datamodules.preprocessing import Preprocess, as_size
from primenet_lightning.datamodules.samplers import EpochBatchSampler, OrderedBatchSampler
from primenet_lightning.datamodules.splits import last_held_out, limited, stratified_split

if TYPE_CHECKING:
    from primenet_lightning.datamodules.datasets import DatasetsDataModule

Arrays = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class _Splits:
    train: ImageTensors
    validation: ImageTensors
    test: ImageTensors
    preprocess: Preprocess


class ImageDataModule(LightningDataModule, metaclass=CheckedArguments):
    """Images of equal size with one label each, held in memory as uint8.

    A batch is one gather out of that memory, a pair of uint8 images (batch, channels, height, width) and int64 labels
    (batch,). It becomes float32 on its device, in `on_after_batch_transfer`. A stratified validation split is held out
    of the training images; the test images are those of the data set.

    A subclass sets the class attributes and returns its arrays from `load_arrays`; `prepare_data` may download.

    Args:
        root: Folder of the data; None takes the environment variable ``PRIMENET_DATA``, else ``"data"``.
        batch_size: Images in a training batch over all devices; each takes its share.
        eval_batch_size: Images in an evaluation batch over all devices, rounded up until it divides by their number.
        validation_fraction: Share of the training images held out, between 0 and 1; with 0 the last weights are tested.
        seed: Which images are held out, and the order of each epoch.
        normalization: ``"symmetric"`` maps pixels to [-1, 1], as the paper's authors do; ``"standardize"``
            gives the training split mean 0 and standard deviation 1 per channel.
        augmentation: Takes and returns the images of a training batch, uint8 (batch, channels, height, width), on
            their device, after ``resize`` and before normalization; in YAML a module by its class path. A transform of
            ``torchvision.transforms.v2`` is called image by image, and may return floats from 0 to 1.
        download: Whether ``prepare_data`` may download what is missing.
        verify: Whether files are compared with their official md5.
        limit_train: Train on a stratified subset of so many images; the validation split stays as it is.
        predict_files: Folder or files for ``Trainer.predict``.
        resize: Height and width, or one number for a square, that each batch is resized to on its device: the size
            that a backbone wants. ``image_size`` then is this one, and prediction does the same.

    Attributes:
        name: The data set, as in ``"mnist"``.
        num_classes: How many classes there are.
        in_channels: Channels an image has.
        image_size: Height and width in pixels of the images that the network gets.
        fit: How files to predict are brought to ``picture_size``; None refuses those of another size.
        validation_count: How many training images, the last, are validation images that the data set comes with; None
            holds out ``validation_fraction``.
        class_names: What the classes are called, in the order of their labels.
        copies_ahead: Whether training batches are copied to a GPU while the one before them is learned; the callback
            `CUDAGraphs` sets it.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> class Stripes(ImageDataModule):
        ...     name, class_names = "stripes", ("flat", "upright")
        ...     num_classes, in_channels, image_size = 2, 1, (2, 2)
        ...     def load_arrays(self):
        ...         images = torch.tensor([[[0, 0], [255, 255]], [[0, 255], [0, 255]]], dtype=torch.uint8)
        ...         labels = torch.tensor([0, 1])
        ...         return images.repeat(10, 1, 1), labels.repeat(10), images, labels
        >>> data = Stripes(batch_size=6)
        >>> data.setup("fit")
        >>> images, labels = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        >>> images.shape, images.unique()
        (torch.Size([6, 1, 2, 2]), tensor([-1.,  1.]))
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    fit: Fit | None = None
    validation_count: int | None = None
    copies_ahead: bool = False

    _checked_by_itself: ClassVar[tuple[str, ...]] = ("augmentation",)

    # What a run's folder and machine say is no property of the data; a callable may not be picklable.
    _not_saved: ClassVar[list[str]] = ["root", "augmentation", "predict_files"]

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        batch_size: int = 200,
        eval_batch_size: int = 1000,
        validation_fraction: float = 0.1,
        seed: int = 0,
        normalization: Literal["symmetric", "standardize"] = "symmetric",
        augmentation: Augmentation | None = None,
        download: bool = True,
        verify: bool = True,
        limit_train: int | None = None,
        predict_files: list[str] | str | None = None,
        resize: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        # not to the logger: there the model's own hyperparameters of the same name would clash with these
        self.save_hyperparameters(ignore=self._not_saved, logger=False)
        self.root = Path(os.environ.get("PRIMENET_DATA", "data") if root is None else root).expanduser()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.normalization = normalization
        self.augmentation = augmentation
        self.download = download
        self.verify = verify
        self.limit_train = limit_train
        self.predict_files = predict_files
        check_options(batch_size, eval_batch_size, validation_fraction, seed, normalization, limit_train)
        refuse_augmentation(augmentation)
        self._resized_from: tuple[int, int] | None = None
        if resize is not None:
            self._resized_from = self.image_size
            self.image_size = as_size("resize", resize)
        self._data: _Splits | None = None
        self._to_predict: Dataset[tuple[Tensor, str]] | None = None

    @classmethod
    def from_datasets(  # type: ignore[override]  # Lightning's makes loaders, which read, convert and stack each image
        cls, train: Dataset[Any], test: Dataset[Any], **options: Any
    ) -> "DatasetsDataModule":
        """Take the images and labels of two data sets, such as torchvision's.

        Args:
            train: Pairs of an image and a class index, by position.
            test: Likewise.
            **options: The other arguments of `DatasetsDataModule`.

        Returns:
            A data module with copies of all of them.

        Example:
            >>> import torch
            >>> images = [(torch.full((1, 2, 2), 20 * i, dtype=torch.uint8), i % 2) for i in range(10)]
            >>> data = ImageDataModule.from_datasets(images, images, validation_fraction=0.2)
            >>> data.num_classes, data.in_channels, data.image_size
            (2, 1, (2, 2))
        """
        from primenet_lightning.datamodules.datasets import DatasetsDataModule  # which is one of these

        return DatasetsDataModule(train, test, **options)

    @abstractmethod
    def load_arrays(self) -> Arrays:
        """Read the whole data set, without downloading anything.

        Returns:
            Training images, training labels, test images, test labels, each a numpy array or a tensor. Images are uint8
            as (images, height, width), (images, height, width, channels) or (images, channels, height, width); labels
            are whole numbers (images,).
        """

    def setup(self, stage: str | None = None) -> None:
        """Load, check and split the data; once, whatever the stage.

        Args:
            stage: Given by Lightning; all stages use the same data.

        Raises:
            ValueError: If arrays are not what the class attributes say, a class is missing, or nothing is to validate.
        """
        if self._data is None:
            self._data = self._load_splits()
        # here, since errors of a loader's own method leave torch's loaders as Lightning has patched them
        if stage == "validate" and not self.has_validation:
            refuse_to_validate(self.validation_fraction)
        if stage == "predict" and self.predict_files is not None:
            self._to_predict = self._load_predict_files()

    def _load_splits(self) -> _Splits:
        check_class_names(self.class_names, self.num_classes, self.name)
        train_images, train_labels, test_images, test_labels = self.load_arrays()
        train = self._to_tensors(train_images, train_labels, "train")
        test = self._to_tensors(test_images, test_labels, "test")
        refuse_empty_classes(train.labels, self.class_names, self.name)
        training, held_out = self.hold_out(train.labels)
        if self.limit_train is not None:
            training = limited(training, train.labels, self.limit_train, self.seed, self.name)
            self._require_every_class(train.labels[training], "training", f"raise limit_train={self.limit_train}")
        mean = std = (0.5,) * self.in_channels
        if self.normalization == "standardize":
            mean, std = standard_statistics(train.images, training, self.name)
        return _Splits(
            train=ImageTensors(train.images, train.labels, training),
            validation=ImageTensors(train.images, train.labels, held_out),
            test=test,
            preprocess=Preprocess(Normalize(mean, std), self.picture_size, self.image_size),
        )

    def _to_tensors(self, images: Array, labels: Array, split: str) -> ImageTensors:
        tensor = to_image_tensor(images, self.in_channels, self.picture_size, f"{self.name} {split} images")
        return ImageTensors(tensor, to_label_tensor(labels, len(tensor), self.num_classes, f"{self.name} {split}"))

    def hold_out(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the images that are held out for validation; override it for a split of one's own.

        Args:
            labels: Of all training images, int64 (images,).

        Returns:
            Positions of the training and of the validation split, int64 (images,) each, ascending.

        Raises:
            ValueError: If a class is missing from a split.
        """
        if self.validation_count is not None:
            training, held_out = last_held_out(len(labels), self.validation_count)
            more = less = "add images of it"
        else:
            count = round(self.validation_fraction * len(labels))
            training, held_out = stratified_split(labels, count, self.seed)
            more = f"raise validation_fraction={self.validation_fraction} or add images"
            less = f"lower validation_fraction={self.validation_fraction} or add images"
        if len(held_out) or self.validation_fraction > 0:
            self._require_every_class(labels[held_out], "validation", more)
        self._require_every_class(labels[training], "training", less)
        return training, held_out

    def _require_every_class(self, labels: Tensor, split: str, remedy: str) -> None:
        require_every_class(labels, self.class_names, split, self.name, remedy)

    @property
    def _loaded(self) -> _Splits:
        if self._data is None:
            raise RuntimeError(f"{type(self).__name__} holds no data yet; call setup('fit') first.")
        return self._data

    @property
    def train_dataset(self) -> ImageTensors:
        """The training split; raises RuntimeError before ``setup``, as all that follow."""
        return self._loaded.train

    @property
    def validation_dataset(self) -> ImageTensors:
        """The validation split, in the same memory as the training split."""
        return self._loaded.validation

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images."""
        return len(self.validation_dataset) > 0

    @property
    def test_dataset(self) -> ImageTensors:
        """The test split."""
        return self._loaded.test

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel that normalization subtracts, with pixels measured from 0 to 1."""
        return self._loaded.preprocess.normalize.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel that normalization divides by, with pixels measured from 0 to 1."""
        return self._loaded.preprocess.normalize.std

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the images in memory; ``image_size`` unless they are resized by the batch."""
        return self._resized_from or self.image_size

    @property
    def dataset_name(self) -> str:
        """The data set that a run reports."""
        return self.name

    def description(self) -> dict[str, Any]:
        """What prediction has to know about the data, in plain Python values, to be kept in the checkpoint.

        Returns:
            ``dataset``, ``class_names``, ``image_size``, ``in_channels``, ``num_classes``, ``mean`` and ``std``;
            ``picture_size``, which files must have, and ``fit``, by which those of another size are brought to it.
        """
        check_class_names(self.class_names, self.num_classes, self.name)
        return {
            "dataset": self.dataset_name,
            "class_names": list(self.class_names),
            "image_size": list(self.image_size),
            "in_channels": self.in_channels,
            "num_classes": self.num_classes,
            "mean": list(self.mean),
            "std": list(self.std),
            "picture_size": list(self.picture_size),
            "fit": self.fit,
        }

    def normalize(self, images: Tensor) -> Tensor:
        """Turn a batch of pixels into the network's input, resized where ``resize`` was given.

        Args:
            images: uint8 (batch, channels, height, width).

        Returns:
            float32 (batch, channels, height, width), on the same device.
        """
        return self._loaded.preprocess(images)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Resize where asked, augment, in training only, and normalize; on the batch's device.

        Args:
            batch: uint8 images (batch, channels, height, width), and their labels or paths; or images alone.
            dataloader_idx: Given by Lightning.

        Returns:
            float32 images of ``image_size``, and the labels or paths as they were; or images alone.
        """
        if isinstance(batch, Tensor):
            return self.normalize(batch)
        images, labels_or_paths = batch
        if self.augmentation is not None and self.trainer is not None and self.trainer.training:
            set_epoch(self.augmentation, self.trainer.current_epoch, self.seed)
            images = augmented(self.augmentation, self._loaded.preprocess.resize(images))
        return self.normalize(images), labels_or_paths

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the training batches, in an order of their own each epoch."""
        dataset = self.train_dataset
        world_size, rank = ranks_of(self.trainer)
        sampler: EpochBatchSampler
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0:
            sampler = OrderedBatchSampler(len(dataset), self.batch_size, num_replicas=world_size, rank=rank)
        else:
            sampler = EpochBatchSampler(
                len(dataset), self.batch_size, seed=self.seed, num_replicas=world_size, rank=rank
            )
        gpu = gpu_of(self.trainer)
        ahead = gpu if self.copies_ahead else None
        return BatchLoader(dataset, sampler, self._batches_done, pin_memory=gpu is not None, device=ahead)

    def val_dataloader(self) -> Any:
        """This rank's shares of the validation batches, in order; an empty list where there are none."""
        return self._eval_loader(self.validation_dataset) if self.has_validation else []

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """This rank's shares of the test batches, in order."""
        return self._eval_loader(self.test_dataset)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, str]]:
        """Batches of uint8 images (batch, channels, height, width) of ``predict_files``, each with their paths."""
        files = self._to_predict if self._to_predict is not None else self._load_predict_files()
        return DataLoader(files, batch_size=self.eval_batch_size, pin_memory=gpu_of(self.trainer) is not None)

    def _load_predict_files(self) -> Dataset[tuple[Tensor, str]]:
        if self.predict_files is None:
            raise ValueError("predict_files=None names nothing to predict; give a folder or a list of image files.")
        return ImageFiles(self.predict_files, self.picture_size, self.in_channels, self.fit).loaded_with_warnings()

    def _eval_loader(self, dataset: ImageTensors) -> DataLoader[tuple[Tensor, Tensor]]:
        world_size, rank = ranks_of(self.trainer)
        # The size of an evaluation batch changes no result, so unlike the training batch it may be rounded.
        share = math.ceil(self.eval_batch_size / world_size)
        batch_size = share * world_size
        sampler = OrderedBatchSampler(len(dataset), batch_size, num_replicas=world_size, rank=rank)
        return BatchLoader(dataset, sampler, pin_memory=gpu_of(self.trainer) is not None)

    def __getstate__(self) -> dict[str, Any]:
        """All but the Trainer, which attaches itself where it is used: it cannot always be copied or pickled."""
        return self.__dict__ | {"trainer": None}

    def _batches_done(self) -> int:
        return batches_done_by(self.trainer)
