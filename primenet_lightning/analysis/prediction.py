"""Predict image files from a checkpoint alone."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from primenet_lightning.arguments import first_line
from primenet_lightning.datamodules.image_files import ImageFileError, ImageFiles
from primenet_lightning.datamodules.normalization import Normalize
from primenet_lightning.runs.folder import checkpoint_in
from primenet_lightning.training.learner import LocalLearner


class Prediction(NamedTuple):
    """The verdict on one file.

    Attributes:
        path: The file.
        label: Name of the class; None if the file could not be used.
        probability: The network's probability of it, in [0, 1].
        error: Why the file could not be used, in one sentence; None if it could.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    error: str | None = None


def load_model(checkpoint: str | Path) -> LocalLearner:
    """Load a trained model, and with it what it knows of its data.

    The checkpoint says of which class the model is, and the module of that class is imported, from the Python
    path. Nothing else in a checkpoint can run; still, open only those you trust.

    Args:
        checkpoint: A checkpoint file, or the folder of a run, whose best one is taken.

    Returns:
        The model, a `PrimeNet` or a baseline, in evaluation mode, on the CPU; of the subclass that was trained.

    Raises:
        FileNotFoundError: If there is no such file or run.
        ValueError: If it is no checkpoint of a `LocalLearner`, or not of one that was trained with
            a data module of this package.
    """
    path = checkpoint_in(checkpoint)
    try:
        model = _class_in(path).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage has its own
        reason = first_line(error).partition(". ")[0]  # torch goes on to advise to load it unsafely
        raise ValueError(
            f"ckpt={path} cannot be loaded ({reason}); give a checkpoint of PrimeNet or of a baseline "
            "that is whole, with its classes importable"
        ) from error
    if model.data_description is None:
        raise ValueError(
            f"ckpt={path} does not describe its data; train with an ImageDataModule, whose description is saved"
        )
    return model.eval()


def _class_in(path: Path) -> type[LocalLearner]:
    """The class of a checkpoint's model."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    name = saved["class_path"]
    module, _, attribute = name.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    if not isinstance(kind, type) or not issubclass(kind, LocalLearner):
        raise TypeError(f"{name} is no subclass of LocalLearner")
    return kind


@torch.inference_mode()
def predict_files(model: LocalLearner, paths: Sequence[str | Path]) -> Iterator[Prediction]:
    """Classify image files, in order and one at a time; one that cannot be used does not stop the others.

    Args:
        model: From `load_model`.
        paths: Image files, and folders, which stand for the images in them.

    Yields:
        One prediction a file.
    """
    described = model.data_description
    assert described is not None
    normalize = Normalize(described["mean"], described["std"])
    height, width = described["image_size"]
    for given in paths:
        try:
            files = ImageFiles(given, (height, width), described["in_channels"])
        except ImageFileError as error:
            yield Prediction(str(given), error=str(error))
            continue
        for position, path in enumerate(files.paths):
            try:
                image, _ = files[position]
            except ImageFileError as error:
                yield Prediction(str(path), error=str(error))
                continue
            probability, index = model.predict_step(normalize(image[None]), 0)[0].max(0)
            yield Prediction(str(path), described["class_names"][int(index)], float(probability))
