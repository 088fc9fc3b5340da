"""The layers that follow in a model, copied afresh as the local classifier of a part (AugLocal, Ma et al. 2024)."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.classifiers import evenly
from primenet_lightning.nn.cutting.balance import costs_of
from primenet_lightning.nn.cutting.features import Features, FromMaps, ToMaps, normalised_maps
from primenet_lightning.nn.cutting.parts import Piece
from primenet_lightning.nn.cutting.slimming import share, slim
from primenet_lightning.nn.layers import blank_input, trial_run


class LayersThatFollow(nn.Sequential):
    r"""A local classifier of fresh copies of blocks that follow in the model.

    It tells a part what its features will have to serve. Of the n blocks that follow, d are taken,
    :math:`\lfloor i n / d + 1/2 \rfloor, i = 1 \ldots d`, so that they are spread evenly and the last one is among
    them (Ma et al. 2024). Where a block wants other features than the one before it gives, average pooling and a 1x1
    convolution stand between them. A dense layer over the average of all pixels, or of all tokens, gives the logits.

    Args:
        features: What the part hands on.
        num_classes: Number of classes.
        following: The blocks that follow, nearest first.
        depth: How many of them to take, d.
        width: Their share of the channels that they have in the model, for blocks that can be built narrower; others
            keep their width.
        budget: Most multiply-adds of the classifier, as a multiple of those of all blocks that follow; the depth
            shrinks until it fits, down to one block. None for no bound.

    Raises:
        ValueError: If ``depth`` is below 1, or ``width`` or ``budget`` out of range.

    Example:
        >>> import torch
        >>> from primenet_lightning.nn.cutting.cut import pieces_of
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(),
        ...                       nn.Linear(16 * 3 * 3, 10))
        >>> _, *following, _ = pieces_of(model, (1, 16, 16))
        >>> classifier = LayersThatFollow(Features((8, 7, 7), "maps"), 10, following, depth=1)
        >>> classifier(torch.zeros(2, 8, 7, 7)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        features: Features,
        num_classes: int,
        following: Sequence[Piece],
        depth: int = 2,
        width: float = 1.0,
        budget: float | None = None,
    ) -> None:
        at_least(1, depth=depth)
        if not 0 < width <= 1:
            raise ValueError(f"width={width} must be above 0 and at most 1: the share of the channels that are kept")
        layers = _layers(features, num_classes, following, depth, width)
        if budget is not None:
            if not budget > 0:
                raise ValueError(f"budget={budget} must be above 0: a multiple of the cost of the blocks that follow")
            whole = _multiply_adds([piece.part for piece in following], following[0].takes.shape) if following else 0.0
            while depth > 1 and _multiply_adds(layers, features.shape) > budget * whole:
                depth -= 1
                layers = _layers(features, num_classes, following, depth, width)
        super().__init__(*layers)


def fresh(member: Any) -> Any:
    """Copy a module, initialised anew where it knows how to be; or a parameter or buffer as it is.

    Args:
        member: A module, or a tensor of any shape.

    Returns:
        The copy, which shares nothing with the original.

    Example:
        >>> layer = nn.Linear(4, 3)
        >>> bool((fresh(layer).weight == layer.weight).any())
        False
    """
    copied = copy.deepcopy(member)
    if isinstance(copied, nn.Module):
        for module in copied.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()
        copied.requires_grad_(True)
    return copied


def _layers(
    features: Features, num_classes: int, following: Sequence[Piece], depth: int, width: float
) -> list[nn.Module]:
    """The chosen blocks, what fits them together, and the dense layer."""
    layers: list[nn.Module] = []
    for index in evenly(len(following), depth):
        piece = following[index]
        part, takes, gives = _copied(piece, width)
        if features != takes:
            layers.append(Fit(features, takes))
        layers.append(part)
        features = gives
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features.channels, num_classes)]
    return [*layers, normalised_maps(features), *pool]


def _copied(piece: Piece, width: float) -> Piece:
    """A block of fresh modules, narrower where that can be."""
    if width < 1:
        takes = piece.takes.with_channels(share(piece.takes.channels, width))
        narrow = piece.part.copied(lambda member: slim(fresh(member), width))
        shape = shape_given(narrow, takes.shape)
        gives = piece.gives.with_channels(share(piece.gives.channels, width))
        if shape == gives.shape:
            return Piece(narrow, takes, gives)
    return Piece(piece.part.copied(fresh), piece.takes, piece.gives)


def shape_given(part: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Try a part on two blank images.

    Args:
        part: It.
        shape: Of what it is to take for one image.

    Returns:
        The shape of what it gives for one image; None where it fails.

    Example:
        >>> shape_given(nn.Linear(4, 3), (4,)), shape_given(nn.Linear(4, 3), (5,))
        ((3,), None)
    """
    try:
        with trial_run(part):
            given: Tensor = part(blank_input(part, shape))
    except (RuntimeError, ValueError, AssertionError):
        return None
    return tuple(given.shape[1:])


class Fit(nn.Sequential):
    """Fits features to a block that wants others: average pooling, and a 1x1 convolution where channels differ.

    Args:
        features: What there is.
        wanted: What the block takes.

    Example:
        >>> import torch
        >>> Fit(Features((8, 14, 14), "maps"), Features((49, 16), "tokens"))(torch.zeros(2, 8, 14, 14)).shape
        torch.Size([2, 49, 16])
    """

    def __init__(self, features: Features, wanted: Features) -> None:
        layers: list[nn.Module] = [ToMaps(features.layout)]
        size = wanted.map_size
        if wanted.layout == "tokens" and features.layout != "tokens":
            layers.append(nn.Flatten(2))
            layers.append(nn.Unflatten(2, (features.map_size[0] * features.map_size[1], 1)))
            if features.map_size[0] * features.map_size[1] != size[0]:
                layers.append(nn.AdaptiveAvgPool2d(size))
        elif features.map_size != size:
            layers.append(nn.AdaptiveAvgPool2d(size))
        if features.channels != wanted.channels:
            layers.append(nn.Conv2d(features.channels, wanted.channels, 1))
        super().__init__(*layers, FromMaps(wanted.layout))


def _multiply_adds(layers: Sequence[nn.Module], shape: tuple[int, ...]) -> float:
    return sum(cost.multiply_adds for cost in costs_of(layers, shape))
