"""What prediction has to know of the data that a network was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

from primenet_lightning.datamodules.classes import check_class_names

FIELDS = (
    *("dataset", "class_names", "image_size", "in_channels", "num_classes"),
    *("mean", "std", "picture_size", "fit"),
)
"""Entries of `ImageDataModule.description`."""


def complete_description(given: Mapping[str, Any], in_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """Add to a description what a network says itself, and check that they fit.

    Args:
        given: Some of the entries of `ImageDataModule.description`, ``mean`` and ``std`` at least, each of which may be
            one number for all channels.
        in_shape: Channels, height and width of the network's images.
        num_classes: How many classes it tells apart.

    Returns:
        All entries.

    Raises:
        ValueError: If an entry is unknown, or does not fit the network.

    Example:
        >>> complete_description({"mean": 0.5, "std": 0.25}, (3, 8, 8), num_classes=2)["std"]
        [0.25, 0.25, 0.25]
    """
    for name in given:
        if name not in FIELDS:
            raise ValueError(f"description has {name!r}, which it does not take; it takes {', '.join(FIELDS)}")
    channels, height, width = in_shape
    complete: dict[str, Any] = {
        "dataset": "unknown",
        "class_names": [str(label) for label in range(num_classes)],
        "image_size": [height, width],
        "in_channels": channels,
        "num_classes": num_classes,
        "picture_size": given.get("image_size", [height, width]),
        "fit": None,
    }
    complete |= given
    for name, built in (("in_channels", channels), ("image_size", [height, width]), ("num_classes", num_classes)):
        value = complete[name]
        if isinstance(value, tuple):
            value = list(value)
        if value != built:
            raise ValueError(
                f"description has {name}={value}, but the network was built with {name}={built}; leave it out"
            )
    for name in ("mean", "std"):
        complete[name] = _per_channel(name, given[name], channels)
    if min(complete["std"]) <= 0:
        raise ValueError(f"std={given['std']} must be positive, since pixels are divided by it")
    complete["class_names"] = list(complete["class_names"])
    check_class_names(complete["class_names"], num_classes, "the checkpoint")
    return complete


def _per_channel(name: str, given: float | Sequence[float], channels: int) -> list[float]:
    if isinstance(given, int | float):
        given = [given]
    values = [float(value) for value in given]
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise ValueError(
            f"{name} has {len(values)} numbers for in_channels={channels}; give one for each channel, or one"
        )
    return values
