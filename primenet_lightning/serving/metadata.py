"""What an exported file says of itself."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from primenet_lightning.datamodules.description import complete_description
from primenet_lightning.models.pretrained_config import FORMAT
from primenet_lightning.training.learner import LocalLearner

NAME = "primenet.json"
"""Of the entry that holds it in a `torch.export` program."""


def metadata_of(
    model: LocalLearner, output: str, dtype: str, description: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe what is exported.

    Args:
        model: Which is exported.
        output: ``"logits"`` or ``"probabilities"``.
        dtype: Of its weights.
        description: What the model does not know of its data; see `primenet_lightning.analysis.prediction.load_model`.

    Returns:
        Plain data: ``format``, ``class_names``, ``image_size``, ``mean``, ``std``, ....

    Raises:
        ValueError: If nobody says how its pixels were normalised, or the description does not fit.
    """
    known = dict(model.data_description or {}) | dict(description or {})
    if "mean" not in known or "std" not in known:
        raise ValueError(
            "the model does not describe its data, as one trained with an ImageDataModule does; say how its pixels "
            "were normalised: description={'mean': 0.5, 'std': 0.5}"
        )
    data = complete_description(known, model.in_shape, model.num_classes)
    return {
        "format": FORMAT,
        "producer": f"primenet-lightning {version('primenet-lightning')}",
        "network": type(model).__name__,
        "input": "pixels: uint8 from 0 to 255, (batch, channels, height, width); normalised inside",
        "output": output,
        "dtype": dtype,
        **data,
        "picture_size": list(data["picture_size"]),
    }


def as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Write each entry as JSON, for a file that holds texts by name.

    Args:
        metadata: From `metadata_of`.

    Returns:
        JSON by name.

    Example:
        >>> as_texts({"class_names": ["cat", "dog"]})
        {'class_names': '["cat", "dog"]'}
    """
    return {name: json.dumps(value) for name, value in metadata.items()}


def summary(metadata: Mapping[str, Any]) -> str:
    """Say in a line what goes in and what comes out.

    Args:
        metadata: From `metadata_of`.

    Returns:
        The line.

    Example:
        >>> shape = {"in_channels": 1, "image_size": [28, 28]}
        >>> summary({**shape, "class_names": ["0", "1"], "output": "logits"})
        'pixels uint8 (batch, 1, 28, 28) -> logits float32 (batch, 2)'
    """
    size: Sequence[int] = metadata["image_size"]
    shape = f"(batch, {metadata['in_channels']}, {size[0]}, {size[1]})"
    return f"pixels uint8 {shape} -> {metadata['output']} float32 (batch, {len(metadata['class_names'])})"
