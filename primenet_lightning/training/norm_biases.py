"""The biases of normalization layers, which learn at a rate of their own."""

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
"""Layers that normalise, and then may add a bias: batch norms and instance norms, layer norms, group norms."""


def norm_biases(network: nn.Module) -> list[nn.Parameter]:
    """Find what normalization layers add.

    As in airbench (Jordan, 2024), these are the biases alone, not the scales beside them, nor the biases of
    convolutions and dense layers.

    Args:
        network: Any module.

    Returns:
        The parameters ``bias``, ``(channels,)`` each, of its batch, instance, layer and group norms that learn.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4, affine=False))
        >>> [bias is network[1].bias for bias in norm_biases(network)]
        [True]
    """
    biases: list[nn.Parameter] = []
    for module in network.modules():
        if not isinstance(module, NORMALIZATIONS):
            continue
        bias = module.bias
        if isinstance(bias, nn.Parameter) and bias.requires_grad:
            biases.append(bias)
    return biases


def learn_faster(optimizer: Optimizer, biases: Collection[nn.Parameter], factor: float) -> None:
    """Give some parameters of an optimizer groups of their own, at a multiple of the learning rate.

    Their weight decay, where the optimizer has one, is divided by the same, so that a step's decay, the product of
    the two, stays what it was. Each group is followed by one for those of its parameters.

    Args:
        optimizer: Changed in place; before its first step.
        biases: Some of its parameters, and maybe others, which are passed over.
        factor: Of the learning rate.

    Example:
        >>> from torch import optim
        >>> norm = nn.BatchNorm1d(3)
        >>> sgd = optim.SGD(norm.parameters(), lr=0.1, weight_decay=0.5)
        >>> learn_faster(sgd, [norm.bias], factor=10)
        >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in sgd.param_groups]
        [(0.1, 0.5, 1), (1.0, 0.05, 1)]
    """
    fast = {id(bias) for bias in biases}
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        faster = [parameter for parameter in group["params"] if id(parameter) in fast]
        others = [parameter for parameter in group["params"] if id(parameter) not in fast]
        if others:
            optimizer.add_param_group({**group, "params": others})
        if faster:
            optimizer.add_param_group({**group, "params": faster, **_faster(group, factor)})


def _faster(group: dict[str, Any], factor: float) -> dict[str, Any]:
    settings = {"lr": group["lr"] * factor}
    if "weight_decay" in group:
        settings["weight_decay"] = group["weight_decay"] / factor
    return settings
