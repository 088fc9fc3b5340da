"""Which test images a network answers wrongly, counted without a Trainer."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from primenet_lightning.datamodules import ImageDataModule, Preprocess
from primenet_lightning.training.learner import LocalLearner

BATCH = 500


@torch.inference_mode()
def wrong_answers_of(model: LocalLearner, images: Tensor, labels: Tensor) -> Tensor:
    """Tell which images a model answers wrongly.

    Args:
        model: That knows its data, in evaluation mode.
        images: Pixels from 0 to 255, uint8 ``(images, channels, height, width)``.
        labels: Class indices, ``(images,)``.

    Returns:
        bool ``(images,)``.

    Example:
        >>> from primenet_lightning import pretrained
        >>> from primenet_lightning.datamodules import DigitsDataModule
        >>> data = DigitsDataModule()
        >>> data.setup("test")
        >>> wrong = wrong_answers_of(pretrained("digits"), data.test_dataset.images, data.test_dataset.labels)
        >>> wrong.shape, bool(wrong.float().mean() < 0.05)
        (torch.Size([359]), True)
    """
    assert model.data_description is not None
    preprocess = Preprocess.of(model.data_description)
    wrong: list[Tensor] = []
    for pixels, target in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
        wrong.append(model(preprocess(pixels.to(model.device))).argmax(1).cpu() != target.cpu())
    return torch.cat(wrong)


def data_of(config: Mapping[str, Any]) -> ImageDataModule:
    """Make the data module of a run again, without its augmentation.

    Args:
        config: Of ``config.yaml``.

    Returns:
        The data module, with nothing read yet.

    Raises:
        ValueError: If it cannot be made.
    """
    data = config["data"]
    module, _, name = data["class_path"].rpartition(".")
    arguments = {key: value for key, value in (data.get("init_args") or {}).items() if key != "augmentation"}
    try:
        made = getattr(importlib.import_module(module), name)(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"data={data['class_path']} of the run cannot be made again ({error})") from error
    assert isinstance(made, ImageDataModule)
    return made
