"""Capsules by name, some of which may go for good, and come back from a checkpoint."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from primenet_lightning.nn.names import HEAD, TOTAL
from primenet_lightning.nn.prime.capsules import Capsule


class CapsuleDict(nn.ModuleDict):
    """Capsules by name, in routing order.

    Of capsules that have gone their form is kept, without memory: a checkpoint of before may be loaded again.

    Args:
        capsules: By name, in routing order.

    Raises:
        ValueError: For a name that a module cannot have, or that would be read as another learner's.

    Example:
        >>> from primenet_lightning.nn.prime.capsules import conv_capsules
        >>> capsules = CapsuleDict(conv_capsules(1, (8, 8), num_classes=3, channels=4))
        >>> capsules.keep_only("k7", needed=set())
        ['k3', 'k5']
        >>> list(capsules)
        ['k7']
    """

    def __init__(self, capsules: Mapping[str, Capsule]) -> None:
        for name in capsules:
            _refuse_name(name)
        super().__init__(capsules)
        self._order = list(capsules)
        self._gone: dict[str, nn.Module] = {}

    @property
    def names(self) -> list[str]:
        """Names of the capsules that are here, in routing order."""
        return list(self)

    @property
    def in_order(self) -> list[Capsule]:
        """The capsules that are here, in routing order."""
        return [self.named(name) for name in self]

    def named(self, name: str) -> Capsule:
        """Look a capsule up.

        Args:
            name: One of `names`.

        Returns:
            The capsule.
        """
        capsule = self[name]
        assert isinstance(capsule, Capsule)
        return capsule

    def keep_only(self, name: str, needed: set[int]) -> list[str]:
        """Drop all capsules but one, and free their memory, whoever else refers to them.

        Args:
            name: Of the one that stays.
            needed: ``id`` of each tensor that must keep its memory, since something else has it too.

        Returns:
            Names of the capsules dropped.
        """
        dropped = [other for other in self if other != name]
        capsules = [self.pop(other) for other in dropped]
        needed = needed | {id(tensor) for tensor in _tensors(self)}
        for other, capsule in zip(dropped, capsules, strict=True):
            self._gone[other] = copy.deepcopy(capsule).to("meta")
            for tensor in _tensors(capsule):
                if id(tensor) not in needed:
                    tensor.grad = None
                    tensor.data = tensor.data.new_empty(0)
        return dropped

    def misses(self, names: set[str]) -> bool:
        """Tell whether just these capsules would be here if those that have gone came back.

        Args:
            names: Of a checkpoint.

        Returns:
            Whether `restore` makes this fit the checkpoint.
        """
        return bool(self._gone) and names == self.keys() | self._gone.keys()

    def restore(self, device: torch.device, dtype: torch.dtype) -> None:
        """Make the capsules that have gone again, in their old places, with memory that is not yet filled.

        Args:
            device: Where.
            dtype: Of their parameters.
        """
        capsules = dict(self.items())
        for name, form in self._gone.items():
            capsules[name] = form.to_empty(device=device).to(dtype).train(self.training)
        self._gone = {}
        self.clear()
        self.update({name: capsules[name] for name in self._order})


def _refuse_name(name: Any) -> None:
    """Refuse what cannot name a module, a metric and a curve alike."""
    if not isinstance(name, str):
        raise ValueError(f"capsules has one named {name!r}, which is no string; name it {str(name)!r}")
    if not name.strip() or not name.isprintable():
        raise ValueError(f"capsules has one named {name!r}, which cannot be read; use printable letters")
    if "." in name:
        advice = name.replace(".", "_")
        raise ValueError(
            f"capsules has one named {name!r}; a dot parts a block's name from its capsule's, so use {advice!r} instead"
        )
    if name in (HEAD, TOTAL):
        raise ValueError(f"capsules has one named {name!r}, a name that every network has already; rename it")
    if hasattr(nn.ModuleDict(), name) or hasattr(CapsuleDict, name) or name in ("_order", "_gone"):
        raise ValueError(f"capsules has one named {name!r}, a name that torch's ModuleDict needs itself; rename it")


def _tensors(module: nn.Module) -> list[Any]:
    """All parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
