"""Whether the parts of a block fit each other, and the input."""

from collections.abc import Mapping

from torch import Tensor, nn

from primenet_lightning.nn.in_place import unchanged
from primenet_lightning.nn.layers import blank_input
from primenet_lightning.nn.prime.router import Router

MapShape = tuple[int, int, int]
"""Channels, height and width."""


def shape_handed_on(
    in_shape: MapShape, capsules: Mapping[str, nn.Module], projection: nn.Module | None, router: Router
) -> MapShape:
    """Run two blank images through every part of a block.

    Args:
        in_shape: Channels, height and width of the input.
        capsules: Capsules by name.
        projection: From the input to a map, or None.
        router: Which says how many channels it makes of the maps.

    Returns:
        Channels, height and width of the block's output.

    Raises:
        ValueError: If parts do not fit each other, or the input.
    """
    x = blank_input(next(iter(capsules.values())), in_shape)
    maps = _shape_of_maps(x, capsules)
    channels, height, width = maps
    channels = router.out_channels(channels, len(capsules))
    if projection is None:
        return channels, height, width
    with unchanged(x, "the projection", "the capsules"):
        projected = tuple(projection(x).shape[1:])
    if projected[1:] != (height, width):
        raise ValueError(
            f"the projection gives {projected} but the capsules {maps}; their heights and widths must "
            "agree (has the projection the capsules' stride?)"
        )
    return channels + projected[0], height, width


def _shape_of_maps(x: Tensor, capsules: Mapping[str, nn.Module]) -> MapShape:
    """The one shape that the maps of all capsules have."""
    in_shape = tuple(x.shape[1:])
    shapes: dict[str, tuple[int, ...]] = {}
    for name, capsule in capsules.items():
        try:
            with unchanged(x, f"capsule {name}", "the other capsules and the projection"):
                feature_map, _ = capsule(x)
        except RuntimeError as error:
            raise ValueError(f"capsule {name} cannot take an input of shape {in_shape}: {error}") from error
        shapes[name] = tuple(feature_map.shape[1:])
    first, *others = shapes
    for name in others:
        if shapes[name] != shapes[first]:
            raise ValueError(
                f"the maps of a block's capsules must agree in shape, but {first} gives {shapes[first]} and "
                f"{name} gives {shapes[name]} from an input of {in_shape}"
            )
    if len(shapes[first]) != 3:
        raise ValueError(f"a feature map must be (batch, channels, height, width), but {first} gives {shapes[first]}")
    channels, height, width = shapes[first]
    return channels, height, width
