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
}
"""All parts, in the order of the tables, and what they are called."""

ONE_SCALE = {"one_scale_3": 3, "one_scale_5": 5, "one_scale_7": 7}
"""The nets of one scale, and the size of its kernel."""


@dataclass(frozen=True)
class Settings:
    """What holds for all parts of a reproduction.

    Attributes:
        dataset: ``"mnist"``, ``"cifar10"``, ``"svhn"``, ``"svhn-subset"`` or ``"digits"``.
        scale: ``"quick"`` or ``"full"``.
        size: Of PrimeNet, ``"compact"`` or ``"paper"``.
        seeds: How many, from 0 on.
        epochs: Of phase 1, and of everything trained end to end.
        probe_epochs: Of phase 2.
        batch_size: Of phase 1.
        probe_batch_size: Of phase 2.
        precision: Of the Trainer.
        images: Training images that all parts but the next line's see; None for all that are not held out.
        heavy_images: Likewise, for the ResNets and the network of several exits.
        heavy_epochs: Epochs of those.
    """

    dataset: str
    scale: str
    size: str
    seeds: int
    epochs: int
    probe_epochs: int
    batch_size: int
    probe_batch_size: int
    precision: str
    images: int | None = None
    heavy_images: int | None = None
    heavy_epochs: int | None = None


@dataclass(frozen=True)
class Result:
    """What is kept of one part with one seed.

    Attributes:
        name: Of the part.
        seed: Of weights, splits and order.
        epochs: How many it took.
        images: Training images it saw, those held out for validation left out.
        all_images: Whether these are all there are but for those held out.
        recipe: How it was trained, in a phrase.
        test_error: In %; routed without labels, taken once, on the checkpoint of least validation error. None where the
            test images are not the data set's.
        validation_error: In %.
        test_images: Images in the test split.
        curves: One value an epoch: ``"train_accuracy"`` and ``"validation_accuracy"`` in %, ``"train_loss"`` in nats.
        cost: ``"parameters"``, ``"multiply_adds_inference"`` and ``"multiply_adds_training"`` for an image, and
            ``"activation_bytes"``: the peak that autograd holds for backward passes of one training batch.
        seconds_per_epoch: By the clock.
        seconds: Of the whole training, likewise.
        extra: What only this part has.
        validation_images: Training images held out.
        in_shape: Channels, height and width of the images.
        classes: Number of classes.
        device: What it was run on, in words.
        versions: Of what may change a number.
    """

    name: str
    seed: int
    epochs: int
    images: int
    all_images: bool
    recipe: str
    test_error: float | None
    validation_error: float
    test_images: int
    curves: dict[str, list[float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    seconds_per_epoch: float = 0.0
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    validation_images: int = 0
    in_shape: list[int] = field(default_factory=list)
    classes: int = 0
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> str:
        """Height, width and channels of the images; empty where they were not recorded."""
        return "x".join(map(str, (*self.in_shape[1:], *self.in_shape[:1])))


class Results:
    """All results of a reproduction.

    Args:
        settings: What holds for all of them.
        results: By name of the part, one a seed.
        arrays: Of the first seed, by name of the part.
    """

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
        """Give a part's results.

        Args:
            name: Of the part.

        Returns:
            By seed; empty if it was not run.
        """
        return self._results.get(name, [])

    def missing(self, names: Iterable[str]) -> list[str]:
        """Tell which parts were not run.

        Args:
            names: Of parts.

        Returns:
            What these are called.
        """
        return [PARTS[name] for name in names if not self.of(name)]

    def arrays(self, name: str) -> Arrays | None:
        """Give a part's arrays.

        Args:
            name: Of the part.

        Returns:
            Of the first seed; None if there are none.
        """
        return self._arrays.get(name)
