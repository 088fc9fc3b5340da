"""What a reproduction consists of: its parts, and how large a scale makes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from lightning.pytorch import Callback, LightningModule
from torch.optim import Adam

from primenet_lightning.analysis.features import FeatureLayer
from primenet_lightning.baselines import CifarResNet20, MultiExit, OneScale, ResNet50
from primenet_lightning.callbacks import SoftFilterPruning
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.architecture import Size
from primenet_lightning.reproduction._results import ONE_SCALE, ONLY_ON, Settings, is_for
from primenet_lightning.reproduction._systems import SYSTEMS

Dataset = Literal["mnist", "cifar10", "svhn", "digits"]
Scale = Literal["quick", "full"]

PAPER_RECIPE = "Adam 0.0002, betas 0.99 and 0.999"
HEAVY_RECIPE = "Adam 0.001, betas 0.9 and 0.999"
PRUNING_RATE = 0.3
"""Share of each layer's filters, as in the main table of the paper on soft filter pruning."""


@dataclass(frozen=True)
class Extent:
    """How large a scale is: ``heavy`` are the ResNets, and the systems beside PrimeNet; None stands for all."""

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
    """Look a scale up; digits are small enough to be taken whole."""
    if scale == "full":
        return Extent(100, 50, None, None, 50)
    if scale != "quick":
        raise ValueError(f"scale={scale!r} is unknown; use 'quick' or 'full'")
    if dataset == "digits":
        return Extent(30, 20, None, None, 5, QUICK)
    return Extent(10, 20, 10_000, 2_000, 5, QUICK)


class Build(Protocol):
    """Makes the network of a part; ``options`` are what it takes from another part."""

    def __call__(self, data: ImageDataModule, size: Size, **options: Any) -> LightningModule: ...


@dataclass(frozen=True)
class Training:
    """A part that trains a network; a heavy one gets the images and epochs of the large networks.

    One that ``begins_with`` another part gives its model that part's best checkpoint, as the option ``trained``.
    """

    name: str
    build: Build
    recipe: str = PAPER_RECIPE
    heavy: bool = False
    callbacks: Callable[[], list[Callback]] = field(default=list)
    begins_with: str | None = None


@dataclass(frozen=True)
class Probing:
    """A part that is phase 2 on features of the network of part ``prime``, which may learn on."""

    name: str
    layer: FeatureLayer = "head"
    finetune: bool = False


Part = Training | Probing

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


def _network(kind: Any, sized: bool = True, **options: Any) -> Build:
    """Makes a network, which may come in the sizes of PrimeNet."""

    def build(data: ImageDataModule, size: Size, **more: Any) -> LightningModule:
        given = {**options, **more}
        if sized:
            given["size"] = size
        model: LightningModule = kind(data.in_channels, data.image_size, data.num_classes, **given)
        return model

    return build


def _heavy(name: str, kind: Any, callbacks: Callable[[], list[Callback]] = list) -> Training:
    """Of one size, with an optimizer of its own."""
    build = _network(kind, sized=False, optimizer=partial(Adam, lr=1e-3))
    return Training(name, build, HEAVY_RECIPE, heavy=True, callbacks=callbacks)


def _system(name: str) -> Training:
    """One of the systems that the paper compares with; of one size too."""
    system = SYSTEMS[name]

    def build(data: ImageDataModule, size: Size, **options: Any) -> LightningModule:
        return system.build(data, **options)

    return Training(name, build, system.recipe, heavy=True, begins_with=system.begins_with)


def all_parts() -> list[Part]:
    """Give every part.

    Example:
        >>> [part.name for part in all_parts()][:3]
        ['prime', 'probe', 'one_scale_3']
    """
    return [
        Training("prime", _network(PrimeNet)),
        Probing("probe"),
        *(Training(name, _network(OneScale, kernel_size=size)) for name, size in ONE_SCALE.items()),
        *(Training(name, _network(PrimeNet, **options)) for name, options in PRIME_VARIANTS.items()),
        _heavy("resnet50", ResNet50),
        _heavy("resnet20", CifarResNet20),
        _heavy("sfp", CifarResNet20, lambda: [SoftFilterPruning(PRUNING_RATE)]),
        _heavy("multi_exit", MultiExit),
        *map(_system, SYSTEMS),
        Probing("probe_routed", "routed"),
        Probing("probe_capsules", "capsules"),
        Probing("probe_finetune", finetune=True),
    ]


def needed_by(part: Part) -> str | None:
    """Name the part whose network a part takes."""
    return "prime" if isinstance(part, Probing) else part.begins_with


NEEDED = frozenset(filter(None, map(needed_by, all_parts())))
"""Parts whose best checkpoint stays, since others take it."""


def plan(names: Sequence[str] | None, dataset: Dataset | None = None) -> list[Part]:
    """Choose parts by name; None takes all that are for the data set. A part comes with the one that it needs."""
    parts = {part.name: part for part in all_parts()}
    if names is None:
        return [part for name, part in parts.items() if dataset is None or is_for(name, dataset)]
    chosen = set(names)
    for name in names:
        if name not in parts:
            raise ValueError(f"parts={name!r} is unknown; use some of {', '.join(parts)}")
        if dataset is not None and not is_for(name, dataset):
            raise ValueError(
                f"parts={name!r} is for {' or '.join(ONLY_ON[name])}, and not for {dataset}; leave it out, or take "
                "another data set"
            )
        chosen |= {*filter(None, [needed_by(parts[name])])}
    return [part for name, part in parts.items() if name in chosen]


def extent_of(part: Part, settings: Settings) -> tuple[int, int | None]:
    """Tell how many epochs a part takes, and how many training images it sees; None for all."""
    if isinstance(part, Probing):
        return settings.probe_epochs, settings.images
    if part.heavy:
        return settings.heavy_epochs or settings.epochs, settings.heavy_images
    return settings.epochs, settings.images
