"""Local classifiers for any part of a model, their shapes worked out from what the part hands on."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from primenet_lightning.arguments import at_least, with_options
from primenet_lightning.nn.classifiers import LocalClassifier, local_classifier
from primenet_lightning.nn.cutting.features import Features, normalised_maps
from primenet_lightning.nn.cutting.following import LayersThatFollow
from primenet_lightning.nn.cutting.parts import Part, Piece
from primenet_lightning.nn.layout import FlattenMaps

ClassifierChoice = str | Mapping[str, Mapping[str, Any]]
"""The name of a local classifier, or ``{name: options}``."""

MAP_KINDS: tuple[LocalClassifier, ...] = ("pooled", "flatten", "conv")
"""Those of `primenet_lightning.nn.classifiers` that a part of any model can have."""


class MLPSR(nn.Sequential):
    """The local classifier of decoupled greedy learning, MLP-SR (Belilovsky et al. 2020).

    Average pooling to a sixteenth of the pixels; 1x1 convolutions, each with batch norm and ReLU; average pooling to
    2x2; dense layers, each with batch norm and ReLU; and a dense layer to the classes.

    Args:
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.
        convolutions: How many 1x1 convolutions, as wide as the map.
        hidden_layers: How many dense layers.
        width: Most units that a dense layer has; the paper's are four times the channels, which None allows.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> import torch
        >>> MLPSR(8, (28, 28), 10)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        num_classes: int,
        convolutions: int = 3,
        hidden_layers: int = 3,
        width: int | None = None,
    ) -> None:
        at_least(0, convolutions=convolutions, hidden_layers=hidden_layers)
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(_sixteenth(map_size))]
        for _ in range(convolutions):
            layers += [nn.Conv2d(in_channels, in_channels, 1, bias=False), nn.BatchNorm2d(in_channels), nn.ReLU()]
        grid = (min(2, map_size[0]), min(2, map_size[1]))
        layers += [nn.AdaptiveAvgPool2d(grid), FlattenMaps()]
        units = in_channels * grid[0] * grid[1]
        hidden = units
        if width is not None:
            at_least(1, width=width)
            hidden = min(units, width)
        for _ in range(hidden_layers):
            layers += [nn.Linear(units, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
            units = hidden
        super().__init__(*layers, nn.Linear(units, num_classes))


def _sixteenth(map_size: tuple[int, int]) -> tuple[int, int]:
    """A quarter of height and width; of one column, such as of tokens, a sixteenth of its height."""
    height, width = map_size
    if width == 1:
        return math.ceil(height / 16), 1
    return math.ceil(height / 4), math.ceil(width / 4)


class Place(NamedTuple):
    """Where a local classifier stands.

    Attributes:
        part: Index of the part whose features it sees, 0 first.
        parts: How many parts there are.
        features: What the part hands on.
        image_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        following: The pieces of the model that follow, nearest first, but for the last, which gives the logits.
        last: That one; None where it is not known.
        next_part: The whole part that follows; None where it is not yet known.
        next_features: What that hands on.
    """

    part: int
    parts: int
    features: Features
    image_shape: tuple[int, ...]
    num_classes: int
    following: Sequence[Piece] = ()
    last: Piece | None = None
    next_part: Part | None = None
    next_features: Features | None = None


def classifier_at(choice: ClassifierChoice, place: Place) -> nn.Module:
    """Build the local classifier of a part.

    Args:
        choice: ``"pooled"`` (average pooling to ``grid``, 2x2 unless told otherwise, and dense), ``"mlp"`` (`MLPSR`),
            ``"layers_that_follow"`` (`LayersThatFollow`), ``"flatten"`` or ``"conv"`` (see
            `primenet_lightning.nn.classifiers.local_classifier`); or ``{name: options}``.
        place: Where it stands.

    Returns:
        A module from the part's features, ``(batch, ...)``, to logits, ``(batch, num_classes)``.

    Raises:
        ValueError: If the name is unknown, or the classifier has no such option.

    Example:
        >>> import torch
        >>> place = Place(0, 2, Features((49, 8), "tokens"), (3, 224, 224), num_classes=10)
        >>> classifier_at({"mlp": {"hidden_layers": 1}}, place)(torch.zeros(2, 49, 8)).shape
        torch.Size([2, 10])
    """
    kind, options = name_and_options("local_classifier", choice)
    features, classes = place.features, place.num_classes
    if kind == "layers_that_follow":
        following = partial(LayersThatFollow, features, classes, place.following, last=place.last)
        return with_options("local_classifier", kind, following, options, "local_classifier")
    maps = normalised_maps(features)
    if kind == "mlp":
        mlp = partial(MLPSR, features.channels, features.map_size, classes)
        return maps.append(with_options("local_classifier", kind, mlp, options, "local_classifier"))
    if kind == "pooled":
        options = {"grid": min(2, *features.map_size)} | options
    for known in MAP_KINDS:
        if kind == known:
            return maps.append(local_classifier(known, features.channels, features.map_size, classes, options=options))
    names = ", ".join(map(repr, ("mlp", "layers_that_follow", *MAP_KINDS)))
    raise ValueError(f"local_classifier={kind!r} is unknown; use one of {names}")


def name_and_options(argument: str, choice: ClassifierChoice) -> tuple[str, dict[str, Any]]:
    """Read a choice that a user made by name, or by name and options.

    Args:
        argument: That it was given as.
        choice: ``"name"``, or ``{"name": {"option": value}}``.

    Returns:
        The name, and the options.

    Raises:
        ValueError: If it names none, or several.

    Example:
        >>> name_and_options("recipe", {"predsim": {"weight": 0.5}})
        ('predsim', {'weight': 0.5})
    """
    if isinstance(choice, str):
        return choice, {}
    if not isinstance(choice, Mapping):
        raise ValueError(f"{argument}={choice!r} must be a name, or {{name: {{option: value}}}}")
    if len(choice) != 1:
        raise ValueError(f"{argument}={dict(choice)} has {len(choice)} names; give one, as {{name: {{option: value}}}}")
    ((name, options),) = choice.items()
    if not (options is None or isinstance(options, Mapping)):
        raise ValueError(f"{argument}={dict(choice)} has no options by name; give {{name: {{option: value}}}}")
    return name, dict(options or {})
