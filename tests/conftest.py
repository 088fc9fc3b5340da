"""Fixtures for all tests."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tiny
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from primenet_lightning import keep_freed_memory
from primenet_lightning.callbacks import CapsuleLossCurves, RoutingMonitor

if TYPE_CHECKING:
    from ranks import Ranks

Batch = tuple[Tensor, Tensor]
ROOT = Path(__file__).parents[1]

# networks of a few thousand weights: on a busy machine threads wait for each other longer than they work
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # or Lightning's DDP sets the threads to all cores, and sums are taken otherwise
keep_freed_memory()  # as the command does

# GitHub's macOS machines have a GPU that torch sees, and on which it can allocate nothing
torch.backends.mps.is_available = lambda: False  # type: ignore[assignment]


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what their file makes once, such as a run, stay on one worker; any other is free."""
    for item in items:
        if isinstance(item, pytest.Function) and _shares_with_its_file(item):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def _shares_with_its_file(item: pytest.Function) -> bool:
    """Whether a test has a fixture of its module."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(definition[-1].scope == "module" for definition in definitions)


@pytest.fixture(scope="session")
def ranks() -> "Iterator[Ranks]":
    """Two processes that train together: ``ranks(function, *args)`` gives both results."""
    from ranks import Ranks

    both = Ranks()
    yield both
    both.stop()


@pytest.fixture(scope="session")
def four_ranks() -> "Iterator[Ranks]":
    """Four processes that train together."""
    from ranks import Ranks

    all_four = Ranks(4)
    yield all_four
    all_four.stop()


@pytest.fixture(autouse=True, scope="session")
def _nothing_is_left_in_the_checkout() -> Iterator[None]:
    """What a training writes, it writes into the folder that it was given."""
    folders = [ROOT / name for name in ("checkpoints", "figures", "lightning_logs", "wandb")]
    missing = [folder for folder in folders if not folder.exists()]
    yield
    assert [folder for folder in missing if folder.exists()] == []


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture of curves or routing is drawn: it takes half of a short run's time."""
    for drawing in (CapsuleLossCurves, RoutingMonitor):
        monkeypatch.setattr(drawing, "_draw", lambda self, trainer: None)


@pytest.fixture
def silent(tmp_path: Path) -> dict[str, Any]:
    """Options of a Trainer on the CPU that writes and prints nothing by itself."""
    return tiny.quiet(tmp_path)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A silent Trainer; keyword arguments replace its options."""
    return partial(tiny.make_trainer, tmp_path)


@pytest.fixture
def make_batches() -> Callable[..., list[Batch]]:
    """Random images with random labels, already in batches."""

    def make(
        count: int = 8,
        size: int = 6,
        shape: tuple[int, ...] = (1, 8, 8),
        classes: int = 3,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        return [
            (
                torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype),
                torch.randint(classes, (size,), generator=generator),
            )
            for _ in range(count)
        ]

    return make


@pytest.fixture
def loader() -> Callable[[list[Batch]], DataLoader[Any]]:
    """A loader that hands out given batches, in order."""
    return lambda batches: DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list will do
