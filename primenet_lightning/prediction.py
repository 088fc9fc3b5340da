"""Predict image files from a checkpoint alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from primenet_lightning.datamodules.files import ImageFileError, ImageFiles
from primenet_lightning.datamodules.normalization import Normalize
from primenet_lightning.module import PrimeNet
from primenet_lightning.runs import RunFolder


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


def load_model(checkpoint: str | Path) -> PrimeNet:
    """Load a trained model, and with it what it knows of its data.

    Args:
        checkpoint: A checkpoint file, or the folder of a run, whose best one is taken.

    Returns:
        The model, in evaluation mode, on the CPU; of the subclass that was trained.

    Raises:
        FileNotFoundError: If there is no such file or run.
        ValueError: If it is no checkpoint of PrimeNet trained with a data module of this package.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = RunFolder.existing(path).best
    if not path.is_file():
        raise FileNotFoundError(f"ckpt={path} does not exist; give a run folder or a checkpoint file")
    try:
        model = PrimeNet.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"ckpt={path} is no checkpoint of PrimeNet, or is damaged: {error}") from error
    if model.data_description is None:
        raise ValueError(
            f"ckpt={path} does not describe its data; train with an ImageDataModule, whose description is saved"
        )
    return model.eval()


@torch.inference_mode()
def predict_files(model: PrimeNet, paths: Sequence[str | Path], batch_size: int = 256) -> Iterator[Prediction]:
    """Classify image files, in order; one that cannot be used does not stop the others.

    Args:
        model: From `load_model`.
        paths: Image files, and folders, which stand for the images in them.
        batch_size: Images held in memory at a time.

    Yields:
        One prediction a file.
    """
    described = model.data_description
    assert described is not None
    normalize = Normalize(described["mean"], described["std"])
    size = (described["image_size"][0], described["image_size"][1])
    for files in (_files(path, size, described["in_channels"]) for path in paths):
        if isinstance(files, Prediction):
            yield files
            continue
        for start in range(0, len(files), batch_size):
            loaded: list[tuple[str, torch.Tensor | str]] = []
            for position in range(start, min(start + batch_size, len(files))):
                name = str(files.paths[position])
                try:
                    loaded.append((name, files[position][0]))
                except ImageFileError as error:
                    loaded.append((name, str(error)))
            images = [image for _, image in loaded if isinstance(image, torch.Tensor)]
            verdicts = iter(model.predict_step(normalize(torch.stack(images)), 0)) if images else iter(())
            for name, image in loaded:
                if isinstance(image, str):
                    yield Prediction(name, error=image)
                else:
                    probability, index = next(verdicts).max(0)
                    yield Prediction(name, described["class_names"][int(index)], float(probability))


def _files(path: str | Path, size: tuple[int, int], channels: int) -> "ImageFiles | Prediction":
    try:
        return ImageFiles(path, size, channels)
    except ImageFileError as error:
        return Prediction(str(path), error=str(error))
