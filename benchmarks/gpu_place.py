"""Where and how large: what the parts of `gpu.py` are given, and where their figures are kept."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import checkout  # noqa: F401
import torch

from primenet_lightning.files import write_whole
from primenet_lightning.nn.prime.architecture import Size

Figures = dict[str, Any]
"""What a part has measured, by name: numbers, texts and lists of them."""

FAILURE = "failed_with"
"""The name of the sentence that a part failed with."""

UNFINISHED = "goes_on_at_the_next_call"
"""Whether a part has used up the time: its figures are those so far."""


@dataclass(frozen=True)
class Sizes:
    """How large the parts are.

    Attributes:
        batch: Images in a batch.
        side: Height and width of the images of steps and memory.
        steps: Steps that are timed.
        rounds: Of steps in turns.
        depths: Of stacks.
        capsules: Of their blocks.
        parts: Of cut ResNets.
        product: Rows of the matrix whose product tells the device's rate.
        memory_depths: Of the stacks whose memory is measured.
        sizes: Of PrimeNet whose steps are timed.
        small: Whether a ResNet of 8 layers takes the place of one of 20.
        fit_limit: Training images; None for all.
        mnist_epochs: Of `compact` on MNIST.
        fast_epochs: Of the fast recipe; None for as many as it says.
        fast_widths: Of its network; None for its own.
        fast_seeds: Of the fast recipe and its twin.
        vgg_epochs: Of vgg8b; None for as many as its file says.
        vgg_channels: Of its blocks; None for its own.
        ways: In which steps are run, of `gpu_steps.WAYS`.
        backend: Of ``torch.compile``: its own compiler, or one that takes calls apart and compiles nothing.
        warm_up: Steps before those that are timed, of networks that are compiled: graphs are captured in them.
    """

    batch: int = 200
    side: int = 32
    steps: int = 30
    rounds: int = 15
    depths: tuple[int, ...] = (1, 3, 6)
    capsules: tuple[int, ...] = (1, 3)
    parts: tuple[int, ...] = (2, 4)
    product: int = 8192
    memory_depths: tuple[int, ...] = (2, 8, 32)
    sizes: tuple[Size, ...] = ("compact", "paper")
    small: bool = False
    fit_limit: int | None = None
    mnist_epochs: int = 100
    fast_epochs: int | None = None
    fast_widths: tuple[int, ...] | None = None
    fast_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    vgg_epochs: int | None = None
    vgg_channels: tuple[int, ...] | None = None
    ways: tuple[str, ...] = ("eager", "eager_bf16", "compiled_bf16", "cuda_graphs_bf16")
    backend: str = "inductor"
    warm_up: int = 12


FULL = Sizes()
"""For a GPU."""

TINY = Sizes(
    batch=8,
    side=8,
    steps=1,
    rounds=1,
    depths=(2,),
    capsules=(2,),
    parts=(2,),
    product=64,
    memory_depths=(2, 3),
    sizes=("compact",),
    small=True,
    fit_limit=20,
    mnist_epochs=2,
    fast_epochs=1,
    fast_widths=(4, 4, 4),
    fast_seeds=(0,),
    vgg_epochs=1,
    vgg_channels=(4, 4, 4, 4, 4, 4),
    ways=("eager", "cuda_graphs_bf16"),
    backend="eager",
    warm_up=2,
)
"""For seconds on a CPU: the same code, smaller numbers."""


@dataclass(frozen=True)
class Place:
    """Where the parts run.

    Attributes:
        device: ``"cuda"`` or ``"cpu"``.
        data: Folder of the unpacked data sets.
        out: Folder of the figures, and of checkpoints to go on from.
        sizes: How large the parts are.
        end: By `time.monotonic`, when the minutes are over.
        is_tiny: Whether the data may be others than the official ones.
    """

    device: str
    data: Path
    out: Path
    sizes: Sizes
    end: float
    is_tiny: bool = False

    @property
    def accelerator(self) -> str:
        """The device as Lightning calls it."""
        return "gpu" if self.device == "cuda" else "cpu"

    def seconds_left(self) -> float:
        """Until the minutes are over."""
        return self.end - time.monotonic()

    def synchronize(self) -> None:
        """Wait until the device has done all that it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def is_sound(self) -> bool:
        """Tell whether this process can go on: after some errors of kernels each call of CUDA fails, in all parts."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True


class Part(NamedTuple):
    """One part of the measurements.

    Attributes:
        name: By which its figures are kept.
        seconds: How long it may take on a GPU: with less time left it is not begun.
        work: Gives its figures; with `UNFINISHED` among them if it has used up the time.
        needs: A folder or file in the folder of the data; None where it needs no data.
    """

    name: str
    seconds: float
    work: Callable[[Place], Figures]
    needs: str | None = None


class Kept:
    """The figures of all parts in one file, ``gpu.json``, which is whole at any time.

    Args:
        folder: Of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gpu.json"
        self.parts: dict[str, Figures] = {}
        if self.path.exists():
            self.parts = json.loads(self.path.read_text(encoding="utf-8"))

    def add(self, name: str, figures: Figures) -> None:
        """Keep the figures of a part.

        Args:
            name: Of the part.
            figures: What it has measured, or what it failed with, by the name `FAILURE`.
        """
        self.parts[name] = _rounded(figures)
        write_whole(self.path, json.dumps(self.parts, indent=1) + "\n")

    def is_done(self, name: str, again: bool) -> bool:
        """Tell whether a part needs not be run.

        Args:
            name: Of the part.
            again: Whether those that failed are to be run again.
        """
        figures = self.parts.get(name)
        if figures is None or UNFINISHED in figures:
            return False
        return not (again and FAILURE in figures)


def _rounded(figures: Any) -> Any:
    """The same with five digits that count."""
    if isinstance(figures, float):
        return float(f"{figures:.5g}")
    if isinstance(figures, dict):
        return {str(name): _rounded(value) for name, value in figures.items()}
    if isinstance(figures, list | tuple):
        return [_rounded(value) for value in figures]
    return figures
