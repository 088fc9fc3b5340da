"""What version 0.1 called otherwise: refused where a user writes it, translated where a file of that version has it."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from primenet_lightning.class_paths import refuse_instantiator, refuse_others
from primenet_lightning.training.checkpoint_files import load, undamaged

FORMAT_KEY = "primenet_format"
"""Under which a checkpoint says how its entries are laid out; version 0.1 did not."""

FORMAT = 2
"""How checkpoints are laid out now."""

BACKWARD = {"block": "stage", "capsule": "learner", "fused": "batch"}
"""Values of ``backward`` of version 0.1, and what they are called now."""

RENAMED = {
    "update": "step: 'end_of_batch' is step='batch'; 'immediate' is step='stage' with exchange='stage'",
    "overlap": "exchange: overlap=True is exchange='stage'",
}
"""Options of version 0.1, and what they are called now."""


def refuse_renamed(options: Mapping[str, Any]) -> None:
    """Refuse options by the names of version 0.1.

    Args:
        options: As a user gave them.

    Raises:
        ValueError: For the first; the sentence has the new name.

    Example:
        >>> refuse_renamed({"overlap": True})
        Traceback (most recent call last):
        ...
        ValueError: overlap=True is of version 0.1; it is called exchange: overlap=True is exchange='stage'
    """
    for name, new in RENAMED.items():
        if name in options:
            raise ValueError(f"{name}={options[name]!r} is of version 0.1; it is called {new}")
    backward = options.get("backward")
    if isinstance(backward, str) and backward in BACKWARD:
        raise ValueError(f"backward={backward!r} is of version 0.1; use backward={BACKWARD[backward]!r}")


def translated_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Say the options of a model of version 0.1 in today's words.

    Args:
        options: By name, from a checkpoint or a ``config.yaml``; those of today stay as they are.

    Returns:
        Today's.

    Example:
        >>> translated_options({"depth": 2, "update": "immediate", "backward": "block", "overlap": False})
        {'depth': 2, 'backward': 'stage', 'exchange': 'stage', 'step': 'stage'}
    """
    translated = dict(options)
    update = translated.pop("update", None)
    overlap = translated.pop("overlap", None)
    backward = translated.get("backward")
    if isinstance(backward, str) and backward in BACKWARD:
        translated["backward"] = BACKWARD[backward]
    if overlap is not None:
        translated["exchange"] = "stage" if overlap else "batch"
    if update is not None:
        translated["step"] = "stage" if update == "immediate" else "batch"
    if update == "immediate":
        translated["exchange"] = "stage"
    return translated


def is_of_0_1(checkpoint: Mapping[str, Any]) -> bool:
    """Tell whether version 0.1 wrote a checkpoint.

    Args:
        checkpoint: Its content.

    Returns:
        Whether it lacks what every later version puts in.
    """
    return FORMAT_KEY not in checkpoint


def rename_entries(state_dict: MutableMapping[str, Any], beginnings: Mapping[str, str]) -> None:
    """Give weights their names of today, in place.

    Args:
        state_dict: Of a checkpoint.
        beginnings: How names began then, and how they begin now.

    Example:
        >>> weights = {"network.fc.weight": 1, "other": 2}
        >>> rename_entries(weights, {"network.": "network.model."})
        >>> weights
        {'network.model.fc.weight': 1, 'other': 2}
    """
    for name, value in list(state_dict.items()):
        del state_dict[name]
        for then, now in beginnings.items():
            if name.startswith(then):
                name = now + name.removeprefix(then)
                break
        state_dict[name] = value


@contextmanager
def readable(path: Any) -> Iterator[Any]:
    """Give what Lightning can load a model from, whichever version wrote the checkpoint.

    Args:
        path: A checkpoint file; anything else is passed on.

    Yields:
        The open file; of a checkpoint of version 0.1 its content, with options in today's words.

    Raises:
        ValueError: If the file is damaged, or wants something called or imported that it may not.
    """
    if not isinstance(path, str | Path) or not Path(path).is_file():
        yield path
        return
    with undamaged(path) as file:
        checkpoint = load(path, path, mmap=True)
        options = checkpoint.get("hyper_parameters", {})
        refuse_instantiator(path, options)
        refuse_others(path, options)
        if not is_of_0_1(checkpoint) or translated_options(options) == dict(options):
            yield file
            return
        checkpoint = load(file, path)
    checkpoint["hyper_parameters"] = translated_options(options)
    translated = BytesIO()
    torch.save(checkpoint, translated)
    translated.seek(0)
    yield translated
