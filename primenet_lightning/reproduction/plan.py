"""What a reproduction consists of: its parts, and how large a scale makes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule
from torch.optim import Adam

from primenet_lightning.analysis.features import FeatureLayer
from primenet_lightning.baselines import CifarResNet20, MultiExit, OneScale, ResNet50
from primenet_lightning.callbacks import SoftFilterPruning
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.architecture import Size

Dataset = Literal["mnist", "cifar10", "svhn", "digits"]
Scale = Literal["quick", "full"]

PAPER_RECIPE = "Adam 0.0002, betas 0.99 and 0.999"
HEAVY_RECIPE = "Adam 0.001, betas 0.9 and 0.999"
PRUNING_RATE = 0.3
"""Share of each layer's filters, as in the main table of the paper on soft filter pruning."""


@dataclass(frozen=True)
class Extent:
    """How large a scale is; None stands for all training images.

    Attributes:
        epochs: Of phase 1, and of everything trained end to end.
        probe_epochs: Of phase 2.
        images: Training images.
        heavy_images: Those of the ResNets and the network of several exits.
        heavy_epochs: Epochs of those.
        parts: Names of the parts; None for all.
    """

    epochs: int
    probe_epochs: int
    images: int | None
    heavy_images: int | None
    heavy_epochs: int
    parts: tuple[str, ...] | None = None


QUICK = (
    *("prime", "probe", "one_scale_3", "one_scale_5", "one_scale_7", "end_to_end_mean", "end_to_end_concatenate"),
    *("resnet50", "local_fixed", "local_random", "local_mean", "local_concatenate", "no_projection", "four_scales"),
)
"""What fits into a quarter of an hour."""


def extent(dataset: Dataset, scale: Scale) -> Extent:
    """Look a scale up.

    Args:
        dataset: Digits are small enough to be taken whole.
        scale: ``"full"`` is the paper's schedule.

    Returns:
        Its numbers.

    Raises:
        ValueError: If there is no such scale.
    """
    if scale == "full":
        return Extent(100, 50, None, None, 50)
    if scale == "quick":
        return Extent(30, 20, None, None, 5, QUICK) if dataset == "digits" else Extent(10, 20, 10_000, 2_000, 5, QUICK)
    raise ValueError(f"scale={scale!r} is unknown; use 'quick' or 'full'")


@dataclass(frozen=True)
class Training:
    """A part that trains a network from scratch.

    Attributes:
        name: Of the part.
        build: Makes the model for a data set and a size.
        recipe: How it is trained, in a phrase.
        heavy: Whether it gets the images and epochs of the large networks.
        callbacks: Makes further callbacks.
    """

    name: str
    build: Callable[[ImageDataModule, Size], LightningModule]
    recipe: str = PAPER_RECIPE
    heavy: bool = False
    callbacks: Callable[[], list[Callback]] = field(default=list)


@dataclass(frozen=True)
class Probing:
    """A part that is phase 2 on the network of part ``prime``.

    Attributes:
        name: Of the part.
        layer: Whose features.
        finetune: Whether the network learns too.
    """

    name: str
    layer: FeatureLayer = "head"
    finetune: bool = False


Part = Training | Probing


def _prime(data: ImageDataModule, size: Size, **options: Any) -> LightningModule:
    return PrimeNet(data.in_channels, data.image_size, data.num_classes, size=size, **options)


def _baseline(data: ImageDataModule, size: Size, kind: Any, **options: Any) -> LightningModule:
    model: LightningModule = kind(data.in_channels, data.image_size, data.num_classes, **options)
    return model


def _one_scale(data: ImageDataModule, size: Size, kernel_size: int) -> LightningModule:
    return OneScale(data.in_channels, data.image_size, data.num_classes, kernel_size=kernel_size, size=size)


PRIME_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "end_to_end_mean": {"local": False, "router": "mean"},
    "end_to_end_concatenate": {"local": False, "router": "concatenate"},
    "local_fixed": {"router": "fixed", "router_options": {"capsule": 2}},
    "local_random": {"router": "random"},
    "local_mean": {"router": "mean"},
    "local_concatenate": {"router": "concatenate"},
    "no_projection": {"projection_channels": 0},
    "four_scales": {"kernel_sizes": (1, 3, 5, 7)},
}


def _adam(kind: Any, **options: Any) -> Callable[[ImageDataModule, Size], LightningModule]:
    return partial(_baseline, kind=kind, optimizer=partial(Adam, lr=1e-3), **options)


def _heavy() -> list[Part]:
    pruning = partial(SoftFilterPruning, PRUNING_RATE)
    return [
        Training("resnet50", _adam(ResNet50), HEAVY_RECIPE, heavy=True),
        Training("resnet20", _adam(CifarResNet20), HEAVY_RECIPE, heavy=True),
        Training("sfp", _adam(CifarResNet20), HEAVY_RECIPE, True, lambda: [pruning()]),
        Training("multi_exit", _adam(MultiExit), HEAVY_RECIPE, heavy=True),
    ]


def all_parts() -> list[Part]:
    """Give every part.

    Returns:
        The parts, in the order in which they are carried out.

    Example:
        >>> [part.name for part in all_parts()][:3]
        ['prime', 'probe', 'one_scale_3']
    """
    return [
        Training("prime", _prime),
        Probing("probe"),
        *(Training(f"one_scale_{k}", partial(_one_scale, kernel_size=k)) for k in (3, 5, 7)),
        *(Training(name, partial(_prime, **options)) for name, options in PRIME_VARIANTS.items()),
        *_heavy(),
        Probing("probe_routed", "routed"),
        Probing("probe_capsules", "capsules"),
        Probing("probe_finetune", finetune=True),
    ]


def plan(names: Sequence[str] | None) -> list[Part]:
    """Choose parts.

    Args:
        names: Of the parts; None takes all. ``"prime"`` comes with any that probes it.

    Returns:
        The parts, in the order in which they are carried out.

    Raises:
        ValueError: If there is no part of that name.
    """
    parts = all_parts()
    if names is None:
        return parts
    known = [part.name for part in parts]
    for name in names:
        if name not in known:
            raise ValueError(f"parts={name!r} is unknown; use some of {', '.join(known)}")
    probed = any(isinstance(part, Probing) and part.name in names for part in parts)
    return [part for part in parts if part.name in names or (probed and part.name == "prime")]
