"""The trained networks that the package brings along."""

import difflib
from pathlib import Path

from primenet_lightning.models.pretrained import Pretrained
from primenet_lightning.models.pretrained_config import WEIGHTS

HOME = Path(__file__).resolve().parents[1] / "weights"
"""A folder of `Pretrained.save_pretrained` each, and in it the model card."""

CARD = "card.md"


def pretrained_names() -> tuple[str, ...]:
    """List the trained networks that the package brings along.

    Returns:
        Their names, sorted.

    Example:
        >>> "mnist-deep" in pretrained_names()
        True
    """
    return tuple(sorted(path.parent.name for path in HOME.glob(f"*/{WEIGHTS}")))


def pretrained(name: str) -> Pretrained:
    """Load a trained network that the package brings along. Nothing is downloaded, and no code is loaded.

    Args:
        name: One of `pretrained_names`.

    Returns:
        The model, in evaluation mode, on the CPU, in float32. It knows its classes and how its pixels are normalised
        (``data_description``), predicts, and cannot be trained further.

    Raises:
        ValueError: If there is no such network.

    Example:
        >>> import torch
        >>> model = pretrained("digits")
        >>> model(torch.zeros(1, 1, 8, 8)).shape, model.data_description["dataset"]
        (torch.Size([1, 10]), 'digits')
    """
    model = Pretrained.from_pretrained(_folder_of(name))
    return model.float()  # stored in half precision, which CPUs compute slowly


def card_of(name: str) -> str:
    """Give the model card of a trained network that the package brings along.

    Args:
        name: One of `pretrained_names`.

    Returns:
        Markdown.

    Raises:
        ValueError: If there is no such network.

    Example:
        >>> card_of("mnist-deep").splitlines()[0]
        '# mnist-deep'
    """
    return (_folder_of(name) / CARD).read_text(encoding="utf-8")


def _folder_of(name: str) -> Path:
    names = pretrained_names()
    if name in names:
        return HOME / name
    close = difflib.get_close_matches(name, names, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"
    raise ValueError(f"name={name!r} is no pretrained network of this package; {remedy}")
