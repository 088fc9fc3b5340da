"""Classifiers: the small local ones inside capsules, and the one that ends a network."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least, with_options
from primenet_lightning.nn.fast import run_flatten_and_dense
from primenet_lightning.nn.layers import glorot_, size_after
from primenet_lightning.nn.layout import FlattenMaps, channels_last

LocalClassifier = Literal["flatten", "pooled", "mlp", "conv", "layers"]
"""Names of the local classifiers, see `local_classifier`."""


class FlattenClassifier(nn.Sequential, metaclass=CheckedArguments):
    """The paper's local classifier (section 3.2): flatten, dense; the softmax is part of the loss.

    Maps that are laid out channels last are not copied into the order of the weight; where the weight is smaller than
    the batch, it is put into the order of the maps.

    Args:
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.

    Example:
        >>> import torch
        >>> FlattenClassifier(8, (28, 28), 10)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, map_size: tuple[int, int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(in_channels * map_size[0] * map_size[1], num_classes))
        glorot_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a map.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        return run_flatten_and_dense(self, x)


class PooledClassifier(nn.Sequential, metaclass=CheckedArguments):
    """A small local classifier: average pooling to a fixed grid, flatten, dense.

    Its size does not grow with the image.

    Args:
        in_channels: Channels of the feature map.
        num_classes: Number of classes.
        grid: Height and width of the grid that is left after pooling.

    Example:
        >>> import torch
        >>> PooledClassifier(8, 10, grid=2)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, num_classes: int, grid: int = 4) -> None:
        at_least(1, grid=grid)
        super().__init__(nn.AdaptiveAvgPool2d(grid), FlattenMaps(), nn.Linear(in_channels * grid * grid, num_classes))
        glorot_(self)


class MLPClassifier(nn.Sequential, metaclass=CheckedArguments):
    """A local classifier with a hidden layer: average pooling to a grid, dense, LeakyReLU, dense.

    Args:
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.
        hidden: Units of the hidden layer.
        grid: Height and width of the grid that is left after pooling; no more than those of the map.

    Raises:
        ValueError: If ``hidden`` or ``grid`` is below 1.

    Example:
        >>> import torch
        >>> MLPClassifier(8, (28, 28), 10)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, in_channels: int, map_size: tuple[int, int], num_classes: int, hidden: int = 64, grid: int = 2
    ) -> None:
        at_least(1, hidden=hidden, grid=grid)
        *pool, dense = _pool_and_dense(in_channels, map_size, hidden, grid)
        super().__init__(*pool, dense, nn.LeakyReLU(), nn.Linear(hidden, num_classes))
        glorot_(self)


class ConvClassifier(nn.Sequential, metaclass=CheckedArguments):
    """A local classifier with a convolution: 3x3, batch norm, LeakyReLU; then average pooling to 2x2, dense.

    Args:
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels. Where one is above 4, the convolution has stride 2.
        num_classes: Number of classes.
        channels: Filters of the convolution.

    Raises:
        ValueError: If ``channels`` is below 1.

    Example:
        >>> import torch
        >>> ConvClassifier(8, (28, 28), 10)(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, map_size: tuple[int, int], num_classes: int, channels: int = 32) -> None:
        at_least(1, channels=channels)
        stride = 2 if max(map_size) > 4 else 1
        convolution = _convolution(in_channels, channels, stride)
        dense = _pool_and_dense(channels, size_after(stride, map_size), num_classes, grid=2)
        super().__init__(*convolution, *dense)
        glorot_(self)


class FollowingLayer(NamedTuple):
    """A layer that follows a block in the network itself.

    Attributes:
        channels: Channels of its map.
        pooled: Whether a 2x2 max pool stands right before it.
    """

    channels: int
    pooled: bool


class ChosenLayer(NamedTuple):
    """A layer that a local classifier takes over from those that follow.

    Attributes:
        channels: Channels of its map.
        poolings: How many 2x2 max pools stand between it and the one chosen before it.
    """

    channels: int
    poolings: int


def evenly(count: int, depth: int) -> list[int]:
    r"""Choose evenly among so many, the last one always: :math:`\lfloor i n / d + 1/2 \rfloor - 1, i = 1 \ldots d`.

    Args:
        count: How many there are, n.
        depth: How many to choose, d; all of them if there are fewer.

    Returns:
        Indices, 0 first.

    Example:
        >>> evenly(6, 2), evenly(5, 2), evenly(1, 3)
        ([2, 5], [2, 4], [0])
    """
    depth = min(depth, count)
    # in integers, since round() would send halves to the even neighbour
    return [(2 * number * count + depth) // (2 * depth) - 1 for number in range(1, depth + 1)]


def choose_layers(following: Sequence[FollowingLayer], depth: int) -> list[ChosenLayer]:
    r"""Choose evenly among the layers that follow, the last one always.

    Of n layers, numbered from 1, the chosen ones are :math:`\lfloor i n / d + 1/2 \rfloor, i = 1 \ldots d`; all of
    them if there are no more than d (Ma et al. 2024).

    Args:
        following: All layers that follow, from the nearest to the last.
        depth: How many to choose, d.

    Returns:
        The chosen ones, in their order; each counts the poolings since the one before it.

    Raises:
        ValueError: If ``depth`` is below 1.

    Example:
        >>> following = [FollowingLayer(8, True), FollowingLayer(16, False), FollowingLayer(32, True)]
        >>> choose_layers(following, depth=1)
        [ChosenLayer(channels=32, poolings=2)]
    """
    at_least(1, depth=depth)
    chosen = []
    start = 0
    for place in evenly(len(following), depth):
        poolings = sum(layer.pooled for layer in following[start : place + 1])
        chosen.append(ChosenLayer(following[place].channels, poolings))
        start = place + 1
    return chosen


class FollowingLayers(nn.Sequential):
    """A local classifier of layers like those that follow in the network (AugLocal, Ma et al. 2024).

    It tells a block what its map will have to serve. Each chosen layer becomes its poolings, a 3x3 convolution, batch
    norm and LeakyReLU, with parameters of their own; then average pooling to 2x2 and dense. Where nothing follows, it
    pools to 4x4 as `PooledClassifier` does.

    Args:
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.
        following: The layers that follow in the network, from the nearest to the last.
        depth: How many of them to take, see `choose_layers`. The paper lets it shrink towards the end of the network,
            which here happens where fewer follow.
        width: Most channels that a convolution has here, where those that follow are wider; None for no bound.

    Raises:
        ValueError: If ``depth`` or ``width`` is below 1.

    Example:
        >>> import torch
        >>> following = [FollowingLayer(16, pooled=True), FollowingLayer(32, pooled=True)]
        >>> classifier = FollowingLayers(8, (28, 28), 10, following)
        >>> classifier(torch.zeros(2, 8, 28, 28)).shape
        torch.Size([2, 10])
        >>> [type(layer).__name__ for layer in classifier][:4]
        ['MaxPool2d', 'Conv2d', 'BatchNorm2d', 'LeakyReLU']
    """

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        num_classes: int,
        following: Sequence[FollowingLayer],
        depth: int = 2,
        width: int | None = None,
    ) -> None:
        if width is not None:
            at_least(1, width=width)
        layers: list[nn.Module] = []
        for channels, poolings in choose_layers(following, depth):
            if width is not None:
                channels = min(channels, width)
            if poolings:
                # several 2x2 pools in a row are one larger pool; it must not be larger than the map
                pool = (min(2**poolings, map_size[0]), min(2**poolings, map_size[1]))
                layers.append(nn.MaxPool2d(pool))
                map_size = (map_size[0] // pool[0], map_size[1] // pool[1])
            layers += _convolution(in_channels, channels)
            in_channels = channels
        grid = 2
        if not layers:
            grid = 4
        super().__init__(*layers, *_pool_and_dense(in_channels, map_size, num_classes, grid))
        glorot_(self)


def _convolution(in_channels: int, channels: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.LeakyReLU()]


def _pool_and_dense(in_channels: int, map_size: tuple[int, int], units: int, grid: int) -> list[nn.Module]:
    height, width = min(grid, map_size[0]), min(grid, map_size[1])
    return [nn.AdaptiveAvgPool2d((height, width)), FlattenMaps(), nn.Linear(in_channels * height * width, units)]


def local_classifier(
    kind: LocalClassifier,
    in_channels: int,
    map_size: tuple[int, int],
    num_classes: int,
    following: Sequence[FollowingLayer] = (),
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a local classifier by name.

    Args:
        kind: ``"flatten"`` (the paper's), ``"pooled"`` (the small one), ``"mlp"`` (with a hidden layer), ``"conv"``
            (with a small convolution) or ``"layers"`` (with layers like two of those that follow).
        in_channels: Channels of the feature map.
        map_size: Height and width of the feature map, in pixels.
        num_classes: Number of classes.
        following: The layers that follow in the network, from the nearest to the last; read by ``"layers"`` only.
        options: Further arguments of the class: ``grid`` of ``"pooled"``, ``hidden`` and ``grid`` of ``"mlp"``,
            ``channels`` of ``"conv"``, ``depth`` and ``width`` of ``"layers"``.

    Returns:
        A module from ``(batch, in_channels, *map_size)`` to ``(batch, num_classes)``.

    Raises:
        ValueError: If ``kind`` is none of these, or has no such option.

    Example:
        >>> sum(p.numel() for p in local_classifier("mlp", 8, (28, 28), 10, options={"hidden": 32}).parameters())
        1386
    """
    makers: dict[str, Callable[..., nn.Module]] = {
        "flatten": partial(FlattenClassifier, in_channels, map_size, num_classes),
        "pooled": partial(PooledClassifier, in_channels, num_classes),
        "mlp": partial(MLPClassifier, in_channels, map_size, num_classes),
        "conv": partial(ConvClassifier, in_channels, map_size, num_classes),
        "layers": partial(FollowingLayers, in_channels, map_size, num_classes, following),
    }
    if kind not in makers:
        *names, last = map(repr, makers)
        raise ValueError(f"local_classifier={kind!r} is unknown; use {', '.join(names)} or {last}")
    return with_options("local_classifier", kind, makers[kind], options)


class ClassifierHead(nn.Module, metaclass=CheckedArguments):
    """The classifier that ends the network (section 3.4, and the authors' code).

    Batch norm, 2x2 max pool, 3x3 convolution with ReLU, 2x2 max pool; then flatten and dense.

    Args:
        in_channels: Channels of the routed map and the projection together.
        map_size: Height and width of its input, in pixels; at least 4x4, since two poolings halve it twice.
        num_classes: Number of classes.
        channels: Filters of the 3x3 convolution.

    Raises:
        ValueError: If ``map_size`` is smaller than 4x4.

    Example:
        >>> import torch
        >>> head = ClassifierHead(16, (28, 28), 10, channels=32)
        >>> head.features(torch.zeros(2, 16, 28, 28)).shape, head(torch.zeros(2, 16, 28, 28)).shape
        (torch.Size([2, 1568]), torch.Size([2, 10]))
    """

    def __init__(self, in_channels: int, map_size: tuple[int, int], num_classes: int, channels: int = 128) -> None:
        super().__init__()
        at_least(1, channels=channels)
        if min(map_size) < 4:
            raise ValueError(
                f"map_size={map_size} is too small for the head, whose two 2x2 poolings need at least (4, 4): "
                "use larger images, a smaller depth, a larger pool_every, or a stride of 1"
            )
        self.features = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.MaxPool2d(2),
            nn.Conv2d(in_channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            FlattenMaps(),
        )
        self.classifier = nn.Linear(channels * (map_size[0] // 4) * (map_size[1] // 4), num_classes)
        glorot_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a concatenation of routed map and projection.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            Logits, ``(batch, num_classes)``.
        """
        logits: Tensor = self.classifier(self.features(channels_last(x)))
        return logits
