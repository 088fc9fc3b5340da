"""Modules that do not learn, and stay in evaluation mode while the rest trains."""

from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from primenet_lightning.nn.cutting.borders import refuse_names

Network = TypeVar("Network", bound="KeepsFrozen")


class KeepsFrozen(nn.Module):
    """A network some of whose modules do not learn: they stay in evaluation mode."""

    _frozen: Sequence[nn.Module] = ()

    def train(self: Network, mode: bool = True) -> Network:
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Keep modules from learning, and put them into evaluation mode.

    Args:
        model: Whose modules.
        names: Of these modules.

    Returns:
        The modules.

    Raises:
        ValueError: If a name is not one of a module.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> _ = freeze(model, ["0"])
        >>> [parameter.requires_grad for parameter in model.parameters()]
        [False, False, True, True]
    """
    refuse_names(model, names, "frozen")
    modules: list[nn.Module] = []
    for name in names:
        modules.append(model.get_submodule(name).requires_grad_(False).eval())
    return modules
