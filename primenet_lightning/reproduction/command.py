"""``primenet reproduce``: carries out what is missing of a reproduction, and reports."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from primenet_lightning.presets import Size
from primenet_lightning.probe import quietly
from primenet_lightning.reproduction.carrying_out import Workplace, carry_out, cost_of, extent_of, make_data
from primenet_lightning.reproduction.plan import Dataset, Part, Probing, Scale, extent, plan
from primenet_lightning.reproduction.results import PARTS, Folder, Settings
from primenet_lightning.summary import versions

OVERHEAD = 2_000_000
"""Multiply-adds an image that loading it, norms, losses and optimizers take the time of, roughly; for estimates."""


def parse(args: Sequence[str]) -> Any:
    """Read the command line.

    Args:
        args: Without the program's name and ``reproduce``.

    Returns:
        The options.
    """
    parser = ArgumentParser(
        prog="primenet reproduce",
        description="Measure what the PrimeNet paper claims, and write report.html, report.md and results.json. What "
        "is finished is not run again: the same command goes on after an interruption.",
    )
    parser.add_argument("dataset", type=Dataset, help="Data set.")
    parser.add_argument("--scale", type=Scale, default="quick", help="quick: a quarter of an hour. full: the paper's.")
    parser.add_argument("--seeds", type=int, default=1, help="How many seeds, from 0 on.")
    parser.add_argument("--out", type=str | None, default=None, help="Folder (default: reproduction/DATASET-SCALE).")
    parser.add_argument("--size", type=Size, default="compact", help="Of PrimeNet.")
    parser.add_argument("--root", type=str | None, default=None, help="Folder of the data, as for `primenet fit`.")
    parser.add_argument("--epochs", type=int | None, default=None, help="Of phase 1, instead of the scale's.")
    parser.add_argument("--probe_epochs", type=int | None, default=None, help="Of phase 2, likewise.")
    parser.add_argument("--heavy_epochs", type=int | None, default=None, help="Of ResNets and multi-exit, likewise.")
    parser.add_argument("--images", type=int | None, default=None, help="Training images, likewise.")
    parser.add_argument("--heavy_images", type=int | None, default=None, help="Of ResNets and multi-exit, likewise.")
    parser.add_argument("--parts", type=list[str] | None, default=None, help="Only these, as '[prime,probe]'.")
    parser.add_argument("--precision", type=str, default="32-true", help="Of the Trainer.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Of the Trainer.")
    return parser.parse_args(list(args))


def settings_of(options: Any) -> Settings:
    """Make the settings of a reproduction.

    Args:
        options: From `parse`.

    Returns:
        The settings, the scale's numbers replaced by those that were given.

    Raises:
        ValueError: If a number is not positive.
    """
    found = extent(options.dataset, options.scale)
    for name in ("seeds", "epochs", "probe_epochs", "heavy_epochs", "images", "heavy_images"):
        value = options[name]
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is too small; give at least 1")
    data = make_data(options.dataset, options.root, 0, 200, None)
    data.prepare_data()
    data.setup("fit")
    return Settings(
        dataset=data.dataset_name,
        scale=options.scale,
        size=options.size,
        seeds=options.seeds,
        epochs=options.epochs or found.epochs,
        probe_epochs=options.probe_epochs or found.probe_epochs,
        batch_size=200,
        probe_batch_size=32,
        precision=options.precision,
        device=device_in_words(options.accelerator),
        versions=versions(),
        images=at_most(options.images or found.images, len(data.train_dataset)),
        heavy_images=at_most(options.heavy_images or found.heavy_images, len(data.train_dataset)),
        heavy_epochs=options.heavy_epochs or found.heavy_epochs,
    )


def at_most(images: int | None, there: int) -> int | None:
    """Tell how many images a part sees; None for all, also where more are asked for than there are.

    Example:
        >>> at_most(10_000, 54_000), at_most(10_000, 974), at_most(None, 974)
        (10000, None, None)
    """
    return images if images is not None and images < there else None


def device_in_words(accelerator: str) -> str:
    """Say what the numbers were measured on."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}{_processor()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f", {names[0]}" if names else ""


class Estimate:
    """How long the rest takes, judged by the multiply-adds done so far and the time they took.

    Args:
        work: Of each part that is missing, in units of multiply-adds, by part and seed.

    Example:
        >>> estimate = Estimate({("prime", 0): 300.0, ("probe", 0): 100.0})
        >>> estimate.remaining() is None
        True
        >>> estimate.note(("prime", 0), share=0.5, seconds=60.0)  # 150 of 400 units in a minute
        >>> estimate.remaining()
        100.0
    """

    def __init__(self, work: dict[tuple[str, int], float]) -> None:
        self.work = work
        self.done: dict[tuple[str, int], float] = {}
        self.seconds: dict[tuple[str, int], float] = {}

    def note(self, part: tuple[str, int], share: float, seconds: float) -> None:
        """Take note of progress.

        Args:
            part: Name and seed.
            share: Of the part, that is done.
            seconds: That it took so far.
        """
        self.done[part], self.seconds[part] = share * self.work[part], seconds

    def remaining(self) -> float | None:
        """Seconds; None as long as nothing is known."""
        done = sum(self.done.values())
        if not done:
            return None
        return (sum(self.work.values()) - done) * sum(self.seconds.values()) / done


def work_of(part: Part, place: Workplace) -> float:
    """Estimate what a part costs, in multiply-adds."""
    epochs, images = extent_of(part, place.settings)
    data = make_data(place.settings.dataset, place.root, 0, place.settings.batch_size, images)
    data.setup("fit")
    per_image = 0 if isinstance(part, Probing) else cost_of(part.build(data, cast(Size, place.settings.size)))[2]
    return float(epochs * len(data.train_dataset) * (per_image + OVERHEAD))


def reproduce(args: Sequence[str]) -> int:
    """Run ``primenet reproduce``.

    Args:
        args: Command line after ``reproduce``.

    Returns:
        0.
    """
    from primenet_lightning.reproduction.pages import write_pages

    options = parse(args)
    chosen = options.parts or extent(options.dataset, options.scale).parts
    parts = plan(chosen)
    settings = settings_of(options)
    out = Path(options.out or f"reproduction/{options.dataset}-{options.scale}")
    folder = Folder(out)
    folder.begin(settings)
    again = shlex.join(["primenet", "reproduce", *args])
    place = Workplace(folder, settings, options.root, options.accelerator, again)
    try:
        carry_out_all(parts, place)
    finally:  # an interrupted one reports what there is
        if any((out / "parts").glob("*/seed*/result.json")):
            for path in write_pages(folder.results(), out):
                print(path)
    return 0


def carry_out_all(parts: Sequence[Part], place: Workplace) -> None:
    """Carry out all parts with all seeds, and say how far it is.

    Args:
        parts: Of the plan.
        place: Where and how.
    """
    turns = [(part, seed) for seed in range(place.settings.seeds) for part in parts]
    missing = [(part, seed) for part, seed in turns if place.folder.result(part.name, seed) is None]
    console = Console()
    console.print(f"{len(turns) - len(missing)} of {len(turns)} parts are there; {len(missing)} to run")
    work = {part.name: work_of(part, place) for part, _ in missing}
    estimate = Estimate({(part.name, seed): work[part.name] for part, seed in missing})
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"),
        console=console, transient=True,
    )  # fmt: skip
    with bar:
        for number, (part, seed) in enumerate(missing, 1):
            task = bar.add_task(f"{PARTS[part.name]}, seed {seed}", total=extent_of(part, place.settings)[0], left="")
            began = time.perf_counter()

            def after(epoch: int, _: float, part: Part = part, seed: int = seed, task: Any = task) -> None:
                share = epoch / extent_of(part, place.settings)[0]
                estimate.note((part.name, seed), share, time.perf_counter() - began)  # noqa: B023
                bar.update(task, completed=epoch, left=left_in_words(estimate.remaining()))

            with quietly():
                result = carry_out(part, seed, place, after)
            took = time.perf_counter() - began
            estimate.note((part.name, seed), 1.0, took)
            bar.remove_task(task)
            error = "" if result.test_error is None else f"test error {result.test_error:.2f} %, "
            console.print(
                f"[{number}/{len(missing)}] {PARTS[part.name]}, seed {seed}: {error}{took:.0f} s; "
                f"{left_in_words(estimate.remaining())}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def left_in_words(seconds: float | None) -> str:
    """Say how long the rest takes.

    Example:
        >>> left_in_words(None), left_in_words(40), left_in_words(400), left_in_words(8000)
        ('estimating', 'under a minute left', 'about 7 min left', 'about 2.2 h left')
    """
    if seconds is None:
        return "estimating"
    if seconds < 60:
        return "under a minute left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
