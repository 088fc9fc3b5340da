"""Predict image files from a checkpoint alone."""

import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from primenet_lightning.arguments import at_least, first_line
from primenet_lightning.class_paths import refuse_others
from primenet_lightning.datamodules.description import complete_description
from primenet_lightning.datamodules.image_files import ImageFiles, list_pictures
from primenet_lightning.datamodules.pictures import Fit, ImageFileError, check_fit
from primenet_lightning.datamodules.preprocessing import Preprocess
from primenet_lightning.nn.prime.mixing import Gate
from primenet_lightning.runs.folder import checkpoint_in
from primenet_lightning.training.checkpoint_files import read_checkpoint
from primenet_lightning.training.learner import LocalLearner


class Ranked(NamedTuple):
    """A class that an image may be of.

    Attributes:
        label: Name of the class.
        probability: The network's probability of it, in [0, 1].
    """

    label: str
    probability: float


class Prediction(NamedTuple):
    """The verdict on one file.

    Attributes:
        path: The file.
        label: Name of the class; None if the file could not be used.
        probability: The network's probability of it, in [0, 1].
        error: Why the file could not be used, in one sentence; None if it could.
        exit: Index of the exit where the image left, from 0; None without early exit.
        multiply_adds: What it took; None without early exit.
        ranking: The likeliest classes, that one first, as many as were asked for.
    """

    path: str
    label: str | None = None
    probability: float | None = None
    error: str | None = None
    exit: int | None = None
    multiply_adds: int | None = None
    ranking: tuple[Ranked, ...] = ()


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


class LeavesEarly(Protocol):
    """What classifies images each at an exit, such as `primenet_lightning.serving.EarlyExit`."""

    @property
    def costs(self) -> Sequence[int]:
        """Multiply-adds of an image that leaves at each exit."""
        ...

    def classify(self, images: Tensor) -> Answers:
        """Classify images.

        Args:
            images: Normalised, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``, and exits, ``(batch,)``.
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
    model: LocalLearner,
    paths: Sequence[str | Path],
    fit: Fit | None = None,
    early: LeavesEarly | None = None,
    batch_size: int = 1,
    top_k: int = 1,
) -> Iterator[Prediction]:
    """Classify image files, in order; one that cannot be used does not stop the others.

    Pictures are read as in training: turned as their EXIF tag says, and what is transparent becomes white.

    Args:
        model: From `load_model`.
        paths: Image files, folders, which stand for the images right in them, and patterns such as ``"*.png"``.
        fit: ``"stretch"``, ``"crop"``, ``"pad"`` or ``"digit"``: how pictures are brought to the size of the data
            trained on. None does as in training: a `FolderDataModule` resizes, with the others they are refused.
        early: The model, by which images leave at its exits; None for none.
        batch_size: How many images are classified at once. A network that decides by the whole batch gets them one at
            a time anyway.
        top_k: How many classes a ranking has, at most all.

    Yields:
        One prediction a file.

    Raises:
        ValueError: If ``batch_size`` or ``top_k`` is below 1.
    """
    at_least(1, "image", batch_size=batch_size)
    at_least(1, "class", top_k=top_k)
    described = model.data_description
    assert described is not None
    preprocess = Preprocess.of(described)
    if fit is None:
        fit = described["fit"]
    if _decides_by_batch(model):
        batch_size = 1
    pictures = _pictures(paths, preprocess, described["in_channels"], fit)
    while waiting := list(itertools.islice(pictures, batch_size)):
        images = [picture for _, picture in waiting if isinstance(picture, Tensor)]
        predictions: Iterator[Prediction] = iter(())
        if images:
            predictions = _predicted(model, preprocess(torch.stack(images).to(model.device)), early, top_k)
        for path, picture in waiting:
            if isinstance(picture, Tensor):
                yield next(predictions)._replace(path=path)
            else:
                yield Prediction(path, error=picture)


def _pictures(
    paths: Sequence[str | Path], preprocess: Preprocess, channels: int, fit: Fit | None
) -> Iterator[tuple[str, Tensor | str]]:
    """Path and pixels of each file in order, or what is wrong with it."""
    check_fit(fit)
    for given in paths:
        try:
            files = ImageFiles(list_pictures(given), preprocess.picture_size, channels, fit)
        except ImageFileError as error:
            yield str(given), str(error)
            continue
        for position, path in enumerate(files.paths):
            try:
                yield str(path), files[position][0]
            except ImageFileError as error:
                yield str(path), str(error)


def _decides_by_batch(model: LocalLearner) -> bool:
    """Whether what an image gets depends on the images that it comes with."""
    return any(isinstance(module, Gate) and module.per == "batch" for module in model.network.modules())


def _predicted(model: LocalLearner, images: Tensor, early: LeavesEarly | None, top_k: int) -> Iterator[Prediction]:
    """Classify images, normalised; of their files nothing is known here."""
    exits: list[int] | None = None
    if early is None:
        probabilities = model.predict_step(images, 0)
    else:
        answers = early.classify(images)
        probabilities = answers.logits.float().softmax(1)
        exits = answers.exits.tolist()
    assert model.data_description is not None
    names = model.data_description["class_names"]
    largest = probabilities.topk(min(top_k, len(names)))
    for place, (values, indices) in enumerate(zip(largest.values.tolist(), largest.indices.tolist(), strict=True)):
        ranking = tuple(Ranked(names[index], value) for value, index in zip(values, indices, strict=True))
        prediction = Prediction("", *ranking[0], ranking=ranking)
        if early is not None and exits is not None:
            taken = exits[place]
            prediction = prediction._replace(exit=taken, multiply_adds=early.costs[taken])
        yield prediction
