"""Predict image files from a checkpoint alone."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from primenet_lightning.arguments import first_line
from primenet_lightning.class_paths import refuse_others
from primenet_lightning.datamodules.description import complete_description
from primenet_lightning.datamodules.image_files import ImageFiles
from primenet_lightning.datamodules.pictures import Fit, ImageFileError
from primenet_lightning.datamodules.preprocessing import Preprocess
from primenet_lightning.runs.folder import checkpoint_in
from primenet_lightning.training.checkpoint_files import read_checkpoint
from primenet_lightning.training.learner import LocalLearner


class Prediction(NamedTuple):
    """The verdict on one file.

    Attributes:
        path: The file.
        label: Name of the class; None if the file could not be used.
        probability: The network's probability of it, in [0, 1].
        error: Why the file could not be used, in one sentence; None if it could.
        exit: Index of the exit where the image left, from 0; None without early exit.
        multiply_adds: What it took; None without early exit.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    error: str | None = None
    exit: int | None = None
    multiply_adds: int | None = None


class Answers(Protocol):
    """What a classifier of several exits gives."""

    @property
    def logits(self) -> Tensor:
        """Of each image, ``(batch, classes)``."""
        ...

    @property
    def exits(self) -> Tensor:
        """Where each image left, int64 ``(batch,)``."""
        ...

    @property
    def multiply_adds(self) -> int:
        """Of all images together."""
        ...


class LeavesEarly(Protocol):
    """What classifies images each at an exit, such as `primenet_lightning.serving.EarlyExit`."""

    def classify(self, images: Tensor) -> Answers:
        """Classify images.

        Args:
            images: Normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``, exits and multiply-adds.
        """
        ...


def load_model(
    checkpoint: str | Path,
    description: Mapping[str, Any] | None = None,
    own_classes_only: bool = False,
) -> LocalLearner:
    """Load a trained model, and with it what it knows of its data.

    The checkpoint says of which class the model is, and the module of that class is imported, from the Python
    path, as are those of a router or an optimizer that its options name. Nothing else in a checkpoint can run; still,
    open only those you trust, or allow none but this package's own classes.

    Args:
        checkpoint: A checkpoint file, or the folder of a run, whose best one is taken.
        description: What the checkpoint does not say of its data, or says otherwise. A model that was trained by a
            DataLoader of one's own needs ``mean`` and ``std``, which its pixels, from 0 to 1, were normalised with: a
            number per channel, or one for all. ``class_names`` are the numbers where nobody names them. The other
            entries are those of `ImageDataModule.description`.
        own_classes_only: Whether a checkpoint that names classes of other packages is refused before anything is
            imported, as by the environment variable ``PRIMENET_ONLY_OWN_CLASSES=1``.

    Returns:
        The model, a `PrimeNet` or a baseline, in evaluation mode, on the CPU; of the subclass that was trained.

    Raises:
        FileNotFoundError: If there is no such file or run.
        ValueError: If it is no checkpoint of a `LocalLearner`, if nobody says how its pixels were normalised, or if
            the description does not fit the model.
    """
    path = checkpoint_in(checkpoint)
    try:
        saved = read_checkpoint(path)
    except ValueError as error:
        raise ValueError(_unusable(path, error)) from error
    if isinstance(saved, dict):
        named = {name: saved.get(name) for name in ("class_path", "hyper_parameters")}
        refuse_others(f"ckpt={path}", named, own_classes_only)
    try:
        model = _class_in(saved).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage has its own
        raise ValueError(_unusable(path, error)) from error
    described = dict(model.data_description or {}) | dict(description or {})
    if "mean" not in described or "std" not in described:
        raise ValueError(
            f"ckpt={path} does not describe its data, as one trained with an ImageDataModule does; say how its pixels "
            "were normalised, by --mean and --std (in Python description={'mean': 0.5, 'std': 0.5})"
        )
    model.data_description = complete_description(described, model.in_shape, model.num_classes)
    return model.eval()


def _unusable(path: Path, error: Exception) -> str:
    reason = first_line(error).partition(". ")[0]  # torch goes on to advise to load it unsafely
    return (
        f"ckpt={path} cannot be loaded ({reason}); give a checkpoint of PrimeNet or of a baseline "
        "that is whole, with its classes importable"
    )


def _class_in(saved: Any) -> type[LocalLearner]:
    """The class of a checkpoint's model."""
    name = saved["class_path"]
    module, _, attribute = name.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    if not isinstance(kind, type) or not issubclass(kind, LocalLearner):
        raise TypeError(f"{name} is no subclass of LocalLearner")
    return kind


@torch.inference_mode()
def predict_files(
    model: LocalLearner, paths: Sequence[str | Path], fit: Fit | None = None, early: LeavesEarly | None = None
) -> Iterator[Prediction]:
    """Classify image files, in order and one at a time; one that cannot be used does not stop the others.

    Pictures are read as in training: turned as their EXIF tag says, and what is transparent becomes white.

    Args:
        model: From `load_model`.
        paths: Image files, and folders, which stand for the images in them.
        fit: ``"stretch"``, ``"crop"`` or ``"pad"``: how pictures of another size are brought to that of the data
            trained on. None does as in training: a `FolderDataModule` resizes, with the others they are refused.
        early: The model, by which images leave at its exits; None for none.

    Yields:
        One prediction a file.
    """
    described = model.data_description
    assert described is not None
    preprocess = Preprocess.of(described)
    if fit is None:
        fit = described["fit"]
    for given in paths:
        try:
            files = ImageFiles(given, preprocess.picture_size, described["in_channels"], fit)
        except ImageFileError as error:
            yield Prediction(str(given), error=str(error))
            continue
        for position, path in enumerate(files.paths):
            try:
                image, _ = files[position]
            except ImageFileError as error:
                yield Prediction(str(path), error=str(error))
                continue
            yield _predicted(model, path, preprocess(image[None]), early)


def _predicted(model: LocalLearner, path: Path, image: Tensor, early: LeavesEarly | None) -> Prediction:
    """Classify one image, normalised."""
    exit_taken = multiply_adds = None
    if early is None:
        probabilities = model.predict_step(image, 0)[0]
    else:
        answers = early.classify(image)
        probabilities = answers.logits[0].float().softmax(0)
        exit_taken, multiply_adds = int(answers.exits[0]), answers.multiply_adds
    probability, index = probabilities.max(0)
    assert model.data_description is not None
    label = model.data_description["class_names"][int(index)]
    return Prediction(str(path), label, float(probability), exit=exit_taken, multiply_adds=multiply_adds)
