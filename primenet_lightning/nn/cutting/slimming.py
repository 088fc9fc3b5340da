"""Modules with a share of their channels, and with other channels that they take."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from primenet_lightning.nn.cutting.parts import Part
from primenet_lightning.nn.layers import blank_input, trial_run

Entry = nn.Conv2d | nn.Linear
"""A layer whose weights fix how many channels it takes."""


def slim(member: Any, width: float) -> Any:
    """Take channels away from a copied module, in place; the first ones stay.

    Convolutions, dense layers and norms of torch's, and what is derived from them, become narrower; whether what they
    are inside of still runs is for the caller to try.

    Args:
        member: A module, or a tensor of any shape, which stays as it is.
        width: The share of the channels that stays.

    Returns:
        The same module.

    Example:
        >>> slim(nn.Conv2d(8, 16, 3), 0.5)
        Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    if not isinstance(member, nn.Module):
        return member
    for module in member.modules():
        if isinstance(module, nn.Conv2d):
            _slim_convolution(module, width)
        elif isinstance(module, nn.Linear):
            module.in_features = share(module.in_features, width)
            module.out_features = share(module.out_features, width)
            _keep(module, "weight", module.out_features, module.in_features)
            _keep(module, "bias", module.out_features)
        elif isinstance(module, _NormBase):
            module.num_features = share(module.num_features, width)
            for name in ("weight", "bias", "running_mean", "running_var"):
                _keep(module, name, module.num_features)
        elif isinstance(module, nn.LayerNorm):
            channels = share(module.normalized_shape[-1], width)
            module.normalized_shape = (*module.normalized_shape[:-1], channels)
            _keep(module, "weight", *module.normalized_shape)
            _keep(module, "bias", *module.normalized_shape)
    return member


def _slim_convolution(module: nn.Conv2d, width: float) -> None:
    """Of a convolution by channel the groups become fewer, of any other the channels of each group."""
    by_channel = module.groups == module.in_channels
    module.in_channels = share(module.in_channels, width)
    module.out_channels = share(module.out_channels, width)
    if by_channel:
        module.groups = module.in_channels
    _keep(module, "weight", module.out_channels, module.in_channels // module.groups)
    _keep(module, "bias", module.out_channels)


def share(channels: int, width: float) -> int:
    """Tell how many channels stay.

    Args:
        channels: How many there are.
        width: The share that stays.

    Returns:
        At least 1.

    Example:
        >>> share(16, 0.5), share(1, 0.25)
        (8, 1)
    """
    return max(1, round(channels * width))


def with_entry(part: Part, shape: tuple[int, ...], channels: int, given: int) -> Part | None:
    """Copy a part whose first layers take other channels; these layers are initialised anew.

    First are the convolutions and dense layers that are given the part's input itself; where there are none, the one
    that runs first.

    Args:
        part: It stays as it is.
        shape: Of what it takes for one image.
        channels: Of that.
        given: Channels that the copy is to take.

    Returns:
        The copy, of which only a trial tells whether it runs; None where the first layers take other channels than
        the part does.
    """
    changed = part.copied(copy.deepcopy)
    entries = _entries(changed, shape)
    if not entries:
        return None
    for layer in entries:
        if _channels_taken(layer) != channels:
            return None
    for layer in entries:
        _take(layer, given)
    return changed


def _entries(part: Part, shape: tuple[int, ...]) -> list[Entry]:
    """The layers that the part's input goes to, or else the first one that runs."""
    x = blank_input(part, shape)
    at_input: list[Entry] = []
    in_order: list[Entry] = []

    def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(layer, Entry)
        in_order.append(layer)
        if args and args[0] is x:
            at_input.append(layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in part.modules() if isinstance(layer, Entry)]
    try:
        with trial_run(part):
            part(x)
    finally:
        for hook in hooks:
            hook.remove()
    return at_input or in_order[:1]


def _channels_taken(layer: Entry) -> int | None:
    """None of a convolution in groups, which cannot simply take others."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.in_channels if layer.groups == 1 else None


def _take(layer: Entry, channels: int) -> None:
    """Build the weight anew for so many channels."""
    if isinstance(layer, nn.Linear):
        layer.in_features = channels
    else:
        layer.in_channels = channels
    layer.weight = nn.Parameter(layer.weight.new_empty(layer.weight.shape[0], channels, *layer.weight.shape[2:]))
    layer.reset_parameters()


def _keep(module: nn.Module, name: str, *sizes: int) -> None:
    """Keep the first entries of a parameter or buffer."""
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    with torch.no_grad():
        kept = tensor[tuple(slice(size) for size in sizes)].clone()
    setattr(module, name, nn.Parameter(kept) if isinstance(tensor, nn.Parameter) else kept)
