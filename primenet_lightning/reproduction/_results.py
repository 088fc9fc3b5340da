"""What a reproduction leaves behind, part by part and seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

PARTS = {
    "prime": "PrimeNet, phase 1",
    "probe": "PrimeNet, phase 2: linear probe",
    "probe_routed": "phase 2 on the routed map",
    "probe_capsules": "phase 2 on every capsule's map",
    "probe_finetune": "phase 2, network unfrozen",
    "end_to_end_mean": "PrimeNet end to end, maps averaged",
    "end_to_end_concatenate": "PrimeNet end to end, maps concatenated",
    "local_fixed": "local, always the last scale",
    "local_random": "local, a random scale",
    "local_mean": "local, maps averaged",
    "local_concatenate": "local, maps concatenated",
    "no_projection": "local, least loss, without projection",
    "four_scales": "local, least loss, scales 1, 3, 5, 7",
    "one_scale_3": "one scale, 3x3, end to end",
    "one_scale_5": "one scale, 5x5, end to end",
    "one_scale_7": "one scale, 7x7, end to end",
    "resnet50": "ResNet-50, random weights",
    "resnet20": "ResNet-20",
    "sfp": "ResNet-20, soft filter pruning (SFP)",
    "multi_exit": "multi-exit network",
    "condensenet": "CondenseNet-86",
    "msdnet": "MSDNet, gradient equilibrium (IMTA's first phase)",
    "imta": "IMTA, on that MSDNet",
    "one": "ONE, on ResNet-32",
    "rnp": "RNP, ours",
    "dt_ram": "DT-RAM",
}
"""All parts, in the order of the tables, and what they are called."""

_COLOUR = ("cifar10", "svhn")

ONLY_ON = {
    **dict.fromkeys(("condensenet", "msdnet", "imta", "one"), _COLOUR),
    "rnp": ("mnist", "cifar10", "digits"),
    "dt_ram": ("mnist", "digits"),
}
"""Data sets that a part is for, where these are not all."""

ONE_SCALE = {"one_scale_3": 3, "one_scale_5": 5, "one_scale_7": 7}
"""The nets of one scale, and the size of its kernel."""


def is_for(part: str, dataset: str) -> bool:
    """Tell whether a part makes sense on a data set.

    Example:
        >>> is_for("dt_ram", "mnist"), is_for("dt_ram", "svhn-subset"), is_for("prime", "svhn-subset")
        (True, False, True)
    """
    return part not in ONLY_ON or dataset.removesuffix("-subset") in ONLY_ON[part]


@dataclass(frozen=True)
class Settings:
    """What holds for all parts of a reproduction; heavy are ResNets, networks of several exits, and other systems."""

    dataset: str  # "mnist", "cifar10", "svhn", "svhn-subset" or "digits"
    scale: str  # "quick" or "full"
    size: str  # of PrimeNet, "compact" or "paper"
    seeds: int  # how many, from 0 on
    epochs: int  # of phase 1, and of everything trained end to end
    probe_epochs: int  # of phase 2
    batch_size: int  # of phase 1
    probe_batch_size: int  # of phase 2
    precision: str  # of the Trainer
    images: int | None = None  # training images that light parts see; None for all that are not held out
    heavy_images: int | None = None  # likewise, of heavy parts
    heavy_epochs: int | None = None


@dataclass(frozen=True)
class Result:
    """What is kept of one part with one seed; errors are in %, and of the checkpoint of least validation error.

    The test error was taken once, routed without labels; it is None where the test images are not the data set's.
    """

    name: str
    seed: int  # of weights, splits and order
    epochs: int
    images: int  # training images it saw, those held out for validation left out
    all_images: bool  # whether these are all there are but for those held out
    recipe: str  # how it was trained, in a phrase
    test_error: float | None
    validation_error: float
    test_images: int
    curves: dict[str, list[float]] = field(default_factory=dict)  # one value per epoch: accuracies in %, losses in nats
    cost: dict[str, float] = field(default_factory=dict)  # of an image; activation_bytes: autograd's peak in a batch
    seconds_per_epoch: float = 0.0
    seconds: float = 0.0  # of the whole training
    extra: dict[str, Any] = field(default_factory=dict)  # what only this part has
    validation_images: int = 0
    in_shape: list[int] = field(default_factory=list)  # channels, height and width
    classes: int = 0
    device: str = ""  # in words
    versions: dict[str, str] = field(default_factory=dict)  # of what may change a number

    @property
    def shape(self) -> str:
        """Height, width and channels of the images; empty where they were not recorded."""
        return "x".join(map(str, (*self.in_shape[1:], *self.in_shape[:1])))


class Results:
    """All results of a reproduction: of each part one per seed, and the arrays of the first seed."""

    def __init__(
        self,
        settings: Settings,
        results: Mapping[str, Sequence[Result]],
        arrays: Mapping[str, Arrays] | None = None,
    ) -> None:
        self.settings = settings
        self._results = {name: sorted(seeds, key=lambda result: result.seed) for name, seeds in results.items()}
        self._arrays = dict(arrays or {})

    @property
    def dataset(self) -> str:
        """Name of the data set; ``"svhn-subset"`` is none of the paper's."""
        return self.settings.dataset

    def of(self, name: str) -> list[Result]:
        """A part's results by seed; empty if it was not run."""
        return self._results.get(name, [])

    def missing(self, names: Iterable[str]) -> list[str]:
        """What those of some parts are called that were not run, and are for this data set."""
        return [PARTS[name] for name in names if not self.of(name) and is_for(name, self.dataset)]

    def arrays(self, name: str) -> Arrays | None:
        """A part's arrays; None if there are none."""
        return self._arrays.get(name)
