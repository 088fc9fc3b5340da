"""Small data and models whose training in several processes can be compared."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from primenet_lightning import Capsule, PrimeNet
from primenet_lightning.datamodules import ImageDataModule

Model = TypeVar("Model", bound=PrimeNet)


class TinyData(ImageDataModule):
    """Random images whose label can be seen in their first channel: 75 to train on, 8 to validate.

    In batches of 20 the last one has 15, which two ranks cannot share evenly.
    """

    name, class_names = "tiny", ("a", "b", "c")
    num_classes, in_channels, image_size = 3, 2, (8, 8)

    def load_arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(5)
        labels = torch.arange(103) % 3
        images = torch.randint(0, 120, (103, 2, 8, 8), generator=generator, dtype=torch.uint8)
        images[:, 0, :3] += (labels * 60).to(torch.uint8)[:, None, None]
        return images[:83], labels[:83], images[83:], labels[83:]


class Plain(PrimeNet):
    """No batch norm anywhere: its training does not depend on how a batch is shared out."""

    def configure_capsules(self, index: int, in_shape: tuple[int, int, int]) -> dict[str, Capsule]:
        def capsule(size: int) -> Capsule:
            features = nn.Sequential(nn.Conv2d(in_shape[0], 4, size, padding=size // 2), nn.LeakyReLU())
            flat = 4 * in_shape[1] * in_shape[2]
            return Capsule(features, nn.Sequential(nn.Flatten(), nn.Linear(flat, self.num_classes)))

        return {f"k{size}": capsule(size) for size in (1, 3, 5)}

    def configure_head(self, in_shape: tuple[int, int, int]) -> nn.Module:
        convolution = nn.Conv2d(in_shape[0], 5, 3, padding=1)
        return nn.Sequential(
            convolution, nn.ReLU(), nn.Flatten(), nn.Linear(5 * in_shape[1] * in_shape[2], self.num_classes)
        )


AT_ONCE: dict[str, Any] = dict(exchange="stage", step="stage")
"""Each stage steps right after its own backward, as in the paper."""

SMALL: dict[str, Any] = dict(in_channels=2, image_size=(8, 8), num_classes=3, reduce_channels=2, channels=4)
SMALL |= dict(projection_channels=3, head_channels=5)


def make_model(kind: type[Model] = PrimeNet, **options: Any) -> Model:  # type: ignore[assignment]
    torch.manual_seed(3)
    return kind(**(SMALL | options))


class SGDStep:
    """SGD of a learning rate; unlike a lambda it goes through a pipe."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, parameters: Iterable[Any]) -> SGD:
        return SGD(parameters, lr=self.rate)


class Steps(Callback):
    """Keeps what the training steps gave back, and the weights after each."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.outputs.append(copy.deepcopy(outputs))


def quiet(folder: Path) -> dict[str, Any]:
    """Options of a Trainer of one epoch on the CPU that writes and prints nothing by itself."""
    return dict(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        max_epochs=1,
    )


def make_trainer(folder: Path, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    return Trainer(**(quiet(folder) | options), callbacks=list(callbacks))


def state(model: PrimeNet) -> dict[str, Tensor]:
    """All parameters and buffers, and what else the checkpoint has of the network."""
    return {name: value.detach().clone() for name, value in model.network.state_dict().items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference between two states."""
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one if one[name].numel())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ by as much as a bit; clocks are not compared."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{where}/{key}" for key in one.keys() ^ other.keys()]
        for key in (one.keys() & other.keys()) - {"Timer"}:
            found += differences(one[key], other[key], f"{where}/{key}")
        return found
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        found = [] if len(one) == len(other) else [f"{where}: length"]
        for index, (mine, theirs) in enumerate(zip(one, other)):  # noqa: B905
            found += differences(mine, theirs, f"{where}/{index}")
        return found
    return [] if one == other else [f"{where}: {one} and {other}"]
