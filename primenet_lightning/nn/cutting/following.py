"""The layers that follow in a model, copied afresh as the local classifier of a part (AugLocal, Ma et al. 2024)."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.classifiers import evenly
from primenet_lightning.nn.cutting.balance import costs_of
from primenet_lightning.nn.cutting.features import Features, FromMaps, ToMaps, normalised_maps
from primenet_lightning.nn.cutting.parts import Piece
from primenet_lightning.nn.cutting.slimming import share, slim, with_entry
from primenet_lightning.nn.layers import blank_input, trial_run

Blocks = Literal["evenly", "shrinking"]
"""Which blocks that follow are copied: some of all, or of those whose maps are smaller than what they take."""

Ending = Literal["average", "copy"]
"""What gives the logits: a dense layer over the average of all pixels, or a copy of the model's own last block."""


class LayersThatFollow(nn.Sequential):
    r"""A local classifier of fresh copies of blocks that follow in the model.

    It tells a part what its features will have to serve. Of the n blocks that follow, d are taken,
    :math:`\lfloor i n / d + 1/2 \rfloor, i = 1 \ldots d`, so that they are spread evenly and the last one is among
    them (Ma et al. 2024). Where a block wants other features than the one before it gives, average pooling and a 1x1
    convolution stand between them. A dense layer over the average of all pixels, or of all tokens, gives the logits.

    With ``width=0.5, blocks="shrinking", ending="copy", direct=True`` it is a small model of what follows: half as
    wide, one block for each time that the maps shrink, with the model's own way from maps to logits.

    Args:
        features: What the part hands on.
        num_classes: Number of classes.
        following: The blocks that follow, nearest first.
        depth: How many of them to take, d.
        width: Their share of the channels that they have in the model, for blocks that can be built narrower; others
            keep their width.
        budget: Most multiply-adds of the classifier, as a multiple of those of all blocks that follow; the depth
            shrinks until it fits, down to one block. None for no bound.
        blocks: ``"evenly"``: of all blocks that follow; ``"shrinking"``: of those whose maps are smaller than what they
            take, where there are any.
        ending: ``"average"``: a dense layer over the average of all pixels; ``"copy"``: a fresh copy of the model's own
            last block, the one that gives the logits.
        direct: Whether the first layer of a block is built anew for the channels that it is given, where the block then
            still runs; a 1x1 convolution otherwise.
        last: The model's own last block, for ``ending="copy"``.

    Raises:
        ValueError: If ``depth`` is below 1, if ``width`` or ``budget`` are out of range, or if ``blocks`` or ``ending``
            are unknown.

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
        blocks: Blocks = "evenly",
        ending: Ending = "average",
        direct: bool = False,
        last: Piece | None = None,
    ) -> None:
        at_least(1, depth=depth)
        if not 0 < width <= 1:
            raise ValueError(f"width={width} must be above 0 and at most 1: the share of the channels that are kept")
        if ending not in ("average", "copy"):
            raise ValueError(f"ending={ending!r} is unknown; use 'average' or 'copy'")
        if ending == "copy" and last is None:
            raise ValueError("ending='copy' needs the model's own last block; give it as last, or use ending='average'")
        copier = _Copier(width, direct)
        candidates = _candidates(following, blocks)
        closing = last if ending == "copy" else None
        layers = _layers(features, num_classes, candidates, depth, copier, closing)
        if budget is not None:
            if not budget > 0:
                raise ValueError(f"budget={budget} must be above 0: a multiple of the cost of the blocks that follow")
            whole = _multiply_adds([piece.part for piece in following], following[0].takes.shape) if following else 0.0
            while depth > 1 and _multiply_adds(layers, features.shape) > budget * whole:
                depth -= 1
                layers = _layers(features, num_classes, candidates, depth, copier, closing)
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
    return _initialised(copy.deepcopy(member))


def _initialised(member: Any) -> Any:
    """Initialise a module anew, each of its layers as its class does, and let it learn."""
    if isinstance(member, nn.Module):
        for module in member.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()
        member.requires_grad_(True)
    return member


def _candidates(following: Sequence[Piece], blocks: Blocks) -> Sequence[Piece]:
    """The blocks that may be copied."""
    if blocks == "evenly":
        return following
    if blocks != "shrinking":
        raise ValueError(f"blocks={blocks!r} is unknown; use 'evenly' or 'shrinking'")
    shrinking = [piece for piece in following if math.prod(piece.gives.map_size) < math.prod(piece.takes.map_size)]
    return shrinking or following


class _Copier:
    """Makes blocks of fresh modules.

    Args:
        width: Their share of the channels, where they can be built narrower.
        direct: Whether their first layer is built anew for the channels that there are.
    """

    def __init__(self, width: float, direct: bool) -> None:
        self.width = width
        self.direct = direct

    def copied(self, piece: Piece, features: Features) -> Piece:
        """A block for features, as narrow as it can be."""
        if self.width < 1:
            takes = piece.takes.with_channels(share(piece.takes.channels, self.width))
            gives = piece.gives.with_channels(share(piece.gives.channels, self.width))
            narrow = piece.part.copied(lambda member: _initialised(slim(copy.deepcopy(member), self.width)))
            if shape_given(narrow, takes.shape) == gives.shape:
                return self._entered(Piece(narrow, takes, gives), features)
        return self.copied_whole(piece, features)

    def copied_whole(self, piece: Piece, features: Features) -> Piece:
        """A block of the model's own width."""
        return self._entered(piece._replace(part=piece.part.copied(fresh)), features)

    def _entered(self, piece: Piece, features: Features) -> Piece:
        """The block with a first layer for the channels that there are, where that can be."""
        takes = piece.takes.with_channels(features.channels)
        if not self.direct or takes == piece.takes:
            return piece
        part = with_entry(piece.part, piece.takes.shape, piece.takes.channels, features.channels)
        if part is None or shape_given(part, takes.shape) != piece.gives.shape:
            return piece
        return Piece(part, takes, piece.gives)


def _layers(
    features: Features,
    num_classes: int,
    candidates: Sequence[Piece],
    depth: int,
    copier: _Copier,
    last: Piece | None,
) -> list[nn.Module]:
    """The chosen blocks, what fits them together, and what gives the logits."""
    layers: list[nn.Module] = []
    for index in evenly(len(candidates), depth):
        part, takes, gives = copier.copied(candidates[index], features)
        if features != takes:
            layers.append(Fit(features, takes))
        layers.append(part)
        features = gives
    if last is None:
        dense = nn.Linear(features.channels, num_classes)
        return [*layers, normalised_maps(features), nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense]
    part, takes, _ = copier.copied_whole(last, features)
    if features != takes:
        layers.append(Fit(features, takes))
    return [*layers, part]


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
