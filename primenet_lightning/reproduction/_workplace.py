"""Where a reproduction is carried out: its folder, which holds all that is finished, its data and its device."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.fabric import Fabric

from primenet_lightning.arguments import first_line
from primenet_lightning.checksums import read_json, write_json
from primenet_lightning.datamodules import (
    CIFAR10DataModule,
    DigitsDataModule,
    ImageDataModule,
    MNISTDataModule,
    SVHNDataModule,
)
from primenet_lightning.datamodules.svhn import SUBSET_FOLDER
from primenet_lightning.files import whole
from primenet_lightning.reproduction._results import Arrays, Result, Results, Settings
from primenet_lightning.runs.folder import RunFolder

DATA_MODULES = {kind.name: kind for kind in (MNISTDataModule, CIFAR10DataModule, SVHNDataModule, DigitsDataModule)}

OnEpoch = Callable[[int, float], None]
"""Is told how many epochs of a part are done, and the seconds they took."""

Kind = TypeVar("Kind")


class Folder:
    """The folder of a reproduction: ``settings.json``, ``parts/<name>/seed<k>/result.json`` and ``arrays.npz``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, name: str, seed: int) -> Path:
        """Tell where a part lies; the folder need not be there."""
        return self.path / "parts" / name / f"seed{seed}"

    def begin(self, settings: Settings) -> None:
        """Write the settings down, unless the folder holds something else."""
        path = self.path / "settings.json"
        if not path.is_file() and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(f"out={self.path} exists and is no reproduction; give another folder")
        _write(path, asdict(settings))

    def check(self, name: str, seed: int, conditions: Mapping[str, Any]) -> None:
        """Refuse a part that was begun, or finished, under other conditions; nothing of it is touched."""
        path = self.of(name, seed) / "part.json"
        before: dict[str, Any] = {}
        if path.is_file():
            before = read_json(path, "delete its folder, and the part is run again")
        for key, value in before.items():
            if conditions.get(key) != value:
                raise ValueError(
                    f"out={self.path} holds part {name} run with {key}={value!r}, not {conditions.get(key)!r}; go on "
                    "with that, or give another folder"
                )

    def start(self, name: str, seed: int, conditions: Mapping[str, Any]) -> None:
        """Write down under which conditions a part is run."""
        _write(self.of(name, seed) / "part.json", conditions)

    @property
    def has_results(self) -> bool:
        """Whether a part has been finished."""
        return any(self.path.glob("parts/*/seed*/result.json"))

    def settings(self) -> Settings:
        """Read the settings, which are those of all parts; ValueError if they are damaged."""
        return _read(Settings, self.path / "settings.json", "give another folder with --out")

    def result(self, name: str, seed: int) -> Result | None:
        """Read a part's result; None if it has not been finished."""
        path = self.of(name, seed) / "result.json"
        if not path.is_file():
            return None
        return _read(Result, path, "delete its folder, and the part is run again")

    def best(self, name: str, seed: int, taken_by: str) -> Path:
        """Find the best checkpoint of a finished part, which another one takes; FileNotFoundError if it is missing."""
        folder = self.of(name, seed)
        best = RunFolder(folder).checkpoints / "best.ckpt"
        if self.result(name, seed) is None or not best.is_file():
            raise FileNotFoundError(
                f"{best} is missing, which {taken_by} takes; delete {folder}, and the part is run again"
            )
        return best

    def keep(self, result: Result, arrays: Arrays | None = None) -> None:
        """Write a finished part: its arrays first, since ``result.json`` says that all is there."""
        folder = self.of(result.name, result.seed)
        if arrays:
            with whole(folder / "arrays.npz") as draft, draft.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        _write(folder / "result.json", asdict(result))

    def results(self) -> Results:
        """Read all that is finished, of the seeds that the settings name."""
        settings = self.settings()
        results: dict[str, list[Result]] = {}
        arrays: dict[str, Arrays] = {}
        for path in sorted((self.path / "parts").glob("*/seed*/result.json")):
            seed = int(path.parent.name.removeprefix("seed"))
            result = self.result(path.parts[-3], seed)
            if result is None or seed >= settings.seeds:
                continue
            results.setdefault(result.name, []).append(result)
            beside = path.parent / "arrays.npz"
            if seed == 0 and beside.is_file():
                arrays[result.name] = _read_arrays(beside)
        return Results(settings, results, arrays)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_json(path, values, indent=1, sort_keys=True)


def _read_arrays(path: Path) -> Arrays:
    """Read arrays, each of which has a check sum in a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is None:
            with np.load(path) as file:
                return dict(file)
        reason = f"the check sum of its part {wrong} is another"
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = first_line(error)
    raise ValueError(f"{path} is damaged ({reason}); delete its folder, and the part is run again")


def _read(kind: type[Kind], path: Path, remedy: str) -> Kind:
    """Read what was written; a damaged file, or one of another version of this package, comes with its remedy."""
    try:
        return kind(**read_json(path, remedy))
    except TypeError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None


@dataclass(frozen=True)
class Workplace:
    """Where and how parts are carried out; ``resume_with`` is the command that goes on after an interruption."""

    folder: Folder
    settings: Settings
    root: str | None = None
    accelerator: str = "auto"
    resume_with: str | None = None

    def load(self, seed: int, images: int | None) -> ImageDataModule:
        """Make and set up the data module, with so many training images; None takes all."""
        data = make_data(self.settings.dataset, self.root, seed, self.settings.batch_size, images)
        data.prepare_data()
        data.setup("fit")
        return data

    @property
    def device(self) -> torch.device:
        """The one that a Trainer with this accelerator takes."""
        return Fabric(accelerator=self.accelerator, devices=1).device


def make_data(dataset: str, root: str | None, seed: int, batch_size: int, images: int | None) -> ImageDataModule:
    """Make a data module; that of SVHN takes the subset where it is all there is."""
    kind: type[ImageDataModule] = DATA_MODULES[dataset.removesuffix("-subset")]
    options: dict[str, Any] = {"root": root, "seed": seed, "batch_size": batch_size, "limit_train": images}
    data = kind(**options)
    subset = data.root / SUBSET_FOLDER
    if dataset.startswith("svhn") and not (data.root / "train_32x32.mat").is_file() and subset.is_dir():
        return kind(**options, verify=False, download=False)
    return data
