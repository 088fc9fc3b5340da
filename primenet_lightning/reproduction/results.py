"""What a reproduction leaves behind, part by part and seed by seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primenet_lightning.files import write_whole

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

    def write(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all.

        Args:
            path: The file; its folder is there.

        Returns:
            The same path.
        """
        return write_whole(path, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read it back.

        Args:
            path: The file.

        Returns:
            The result.

        Raises:
            ValueError: If the file is damaged, or of another version of this package.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete its folder, and the part is run again") from None


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
        self._results = {name: sorted(found, key=lambda result: result.seed) for name, found in results.items()}
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

    def arrays(self, name: str) -> Arrays | None:
        """Give a part's arrays.

        Args:
            name: Of the part.

        Returns:
            Of the first seed; None if there are none.
        """
        return self._arrays.get(name)


class Folder:
    """The folder of a reproduction: ``settings.json``, ``parts/<name>/seed<k>/result.json`` and ``arrays.npz``.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, name: str, seed: int) -> Path:
        """Tell where a part lies.

        Args:
            name: Of the part.
            seed: Which of its runs.

        Returns:
            The folder, which need not be there.
        """
        return self.path / "parts" / name / f"seed{seed}"

    def begin(self, settings: Settings) -> None:
        """Write the settings down.

        Args:
            settings: Of what is to be run.

        Raises:
            FileExistsError: If the folder holds something else.
        """
        path = self.path / "settings.json"
        if not path.is_file() and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(f"out={self.path} exists and is no reproduction; give another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(settings), indent=1, sort_keys=True) + "\n")

    def check(self, name: str, seed: int, conditions: Mapping[str, Any]) -> None:
        """Refuse a part that was begun, or finished, under other conditions.

        Args:
            name: Of the part.
            seed: Of the part.
            conditions: All that decides its result.

        Raises:
            ValueError: If it was; nothing of it is touched.
        """
        path = self.of(name, seed) / "part.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for key, value in before.items():
            if conditions.get(key) != value:
                raise ValueError(
                    f"out={self.path} holds part {name} run with {key}={value!r}, not {conditions.get(key)!r}; go on "
                    "with that, or give another folder"
                )

    def start(self, name: str, seed: int, conditions: Mapping[str, Any]) -> Path:
        """Make a part's folder and write down under which conditions it is run.

        Args:
            name: Of the part.
            seed: Of the part.
            conditions: All that decides its result.

        Returns:
            The folder.
        """
        folder = self.of(name, seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "part.json", json.dumps(dict(conditions), indent=1, sort_keys=True) + "\n")
        return folder

    def settings(self) -> Settings:
        """Read the settings.

        Returns:
            Those of all parts in the folder.

        Raises:
            ValueError: If they are damaged.
        """
        path = self.path / "settings.json"
        try:
            return Settings(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); give another folder with --out") from None

    def result(self, name: str, seed: int) -> Result | None:
        """Read a part's result.

        Args:
            name: Of the part.
            seed: Which of its runs.

        Returns:
            The result; None if the part has not been finished.
        """
        path = self.of(name, seed) / "result.json"
        return Result.read(path) if path.is_file() else None

    def keep(self, result: Result, arrays: Arrays | None = None) -> None:
        """Write a finished part: its arrays first, since ``result.json`` says that all is there.

        Args:
            result: Of the part.
            arrays: Its arrays by name; None for none.
        """
        folder = self.of(result.name, result.seed)
        if arrays:
            beside = folder / ".arrays.part.npz"
            np.savez_compressed(beside, **arrays)  # type: ignore[arg-type]
            beside.replace(folder / "arrays.npz")
        result.write(folder / "result.json")

    def results(self) -> Results:
        """Read all that is finished, of the seeds that the settings name."""
        settings = self.settings()
        found: dict[str, list[Result]] = {}
        arrays: dict[str, Arrays] = {}
        for path in sorted((self.path / "parts").glob("*/seed*/result.json")):
            result = Result.read(path)
            if result.seed >= settings.seeds:
                continue
            found.setdefault(result.name, []).append(result)
            kept = path.parent / "arrays.npz"
            if result.seed == 0 and kept.is_file():
                with np.load(kept) as saved:
                    arrays[result.name] = {key: saved[key] for key in saved.files}
        return Results(settings, found, arrays)
