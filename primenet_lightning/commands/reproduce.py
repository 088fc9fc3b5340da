"""``primenet reproduce``: carries out what is missing of a reproduction, and reports."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from primenet_lightning.nn.prime.architecture import Size
from primenet_lightning.reproduction.carrying_out import (
    OnEpoch,
    Workplace,
    carry_out,
    conditions_of,
    cost_of,
    extent_of,
    make_data,
)
from primenet_lightning.reproduction.plan import Dataset, Part, Probing, Scale, extent, plan
from primenet_lightning.reproduction.results import PARTS, Folder, Settings
from primenet_lightning.training.fitting import quietly

BATCH_SIZE, PROBE_BATCH_SIZE = 200, 32
"""The paper's, of both phases."""

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
        ValueError: If a number is not positive, or Lightning does not know the precision or the accelerator.
    """
    found = extent(options.dataset, options.scale)
    for name in ("seeds", "epochs", "probe_epochs", "heavy_epochs", "images", "heavy_images"):
        value = options[name]
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is too small; give at least 1")
    _refuse_trainer(options.precision, options.accelerator)
    data = make_data(options.dataset, options.root, 0, BATCH_SIZE, None)
    data.prepare_data()
    data.setup("fit")
    return Settings(
        dataset=data.dataset_name,
        scale=options.scale,
        size=options.size,
        seeds=options.seeds,
        epochs=options.epochs or found.epochs,
        probe_epochs=options.probe_epochs or found.probe_epochs,
        batch_size=BATCH_SIZE,
        probe_batch_size=PROBE_BATCH_SIZE,
        precision=options.precision,
        images=at_most(options.images or found.images, len(data.train_dataset)),
        heavy_images=at_most(options.heavy_images or found.heavy_images, len(data.train_dataset)),
        heavy_epochs=options.heavy_epochs or found.heavy_epochs,
    )


def _refuse_trainer(precision: str, accelerator: str) -> None:
    """Let Lightning look at what it will be given, before anything is written."""
    try:
        Trainer(accelerator=accelerator, devices=1, precision=precision, logger=False, enable_checkpointing=False)  # type: ignore[arg-type]
    except Exception as error:  # each kind of mistake has its own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"precision={precision!r} with accelerator={accelerator!r} cannot be had: {reason}") from None


def at_most(images: int | None, there: int) -> int | None:
    """Tell how many images a part sees.

    Args:
        images: How many are asked for; None for all.
        there: How many there are.

    Returns:
        None for all, also where more are asked for than there are.

    Example:
        >>> at_most(10_000, 54_000), at_most(10_000, 974), at_most(None, 974)
        (10000, None, None)
    """
    return images if images is not None and images < there else None


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
        self.earlier: dict[tuple[str, int], float] = {}

    def note(self, part: tuple[str, int], share: float, seconds: float, before: float = 0.0) -> None:
        """Take note of progress.

        Args:
            part: Name and seed.
            share: Of the part, that is done.
            seconds: That it took so far, in this process.
            before: Share that was done by another process, before this one went on.
        """
        self.earlier[part] = before * self.work[part]
        self.done[part], self.seconds[part] = (share - before) * self.work[part], seconds

    def remaining(self) -> float | None:
        """Seconds; None as long as nothing is known."""
        done = sum(self.done.values())
        if not done:
            return None
        left = sum(self.work.values()) - sum(self.earlier.values()) - done
        return left * sum(self.seconds.values()) / done


def reproduce(args: Sequence[str]) -> int:
    """Run ``primenet reproduce``.

    Args:
        args: Command line after ``reproduce``.

    Returns:
        0.

    Raises:
        ValueError: If an option is impossible, or the folder holds parts that were run under other conditions.
        FileExistsError: If the folder holds something else.
    """
    from primenet_lightning.reproduction.report.pages import write_pages

    options = parse(args)
    parts = plan(options.parts or extent(options.dataset, options.scale).parts)
    with quietly():
        settings = settings_of(options)
    out = Path(options.out or f"reproduction/{options.dataset}-{options.scale}")
    folder = Folder(out)
    for part in parts:
        for seed in range(settings.seeds):
            folder.check(part.name, seed, conditions_of(part, settings))
    folder.begin(settings)
    again = shlex.join(["primenet", "reproduce", *args])
    try:
        carry_out_all(parts, Workplace(folder, settings, options.root, options.accelerator, again))
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
    work = work_of(list({part.name: part for part, _ in missing}.values()), place)
    estimate = Estimate({(part.name, seed): work[part.name] for part, seed in missing})
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as bar, quietly():
        for number, (part, seed) in enumerate(missing, 1):
            began = time.perf_counter()
            result = carry_out(part, seed, place, _watch(part, seed, place, estimate, bar))
            took = time.perf_counter() - began
            estimate.note((part.name, seed), 1.0, took)
            error = "" if result.test_error is None else f"test error {result.test_error:.2f} %, "
            console.print(
                f"[{number}/{len(missing)}] {PARTS[part.name]}, seed {seed}: {error}{took:.0f} s; "
                f"{left_in_words(estimate.remaining())}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def _watch(part: Part, seed: int, place: Workplace, estimate: Estimate, bar: Progress) -> OnEpoch:
    """Show a part in the bar, and note how fast its epochs go."""
    epochs, _ = extent_of(part, place.settings)
    for shown in bar.task_ids:
        bar.remove_task(shown)
    task = bar.add_task(f"{PARTS[part.name]}, seed {seed}", total=epochs, left=left_in_words(estimate.remaining()))
    began, first = time.perf_counter(), list[int]()

    def after(epoch: int, _: float) -> None:
        first.append(epoch - 1)  # of a part that goes on, not the first of all
        estimate.note((part.name, seed), epoch / epochs, time.perf_counter() - began, first[0] / epochs)
        bar.update(task, completed=epoch, left=left_in_words(estimate.remaining()))

    return after


def work_of(parts: Sequence[Part], place: Workplace) -> dict[str, float]:
    """Estimate what parts cost, with one seed each.

    Args:
        parts: Of the plan.
        place: Where and how.

    Returns:
        Multiply-adds, by name of the part.
    """
    if not parts:
        return {}
    data, work = place.load(0, None), {}
    for part in parts:
        epochs, images = extent_of(part, place.settings)
        per_image = 0 if isinstance(part, Probing) else cost_of(part.build(data, cast(Size, place.settings.size)))[2]
        work[part.name] = float(epochs * (images or len(data.train_dataset)) * (per_image + OVERHEAD))
    return work


def left_in_words(seconds: float | None) -> str:
    """Say how long the rest takes.

    Args:
        seconds: Estimated; None where nothing is known yet.

    Returns:
        A few words.

    Example:
        >>> left_in_words(None), left_in_words(40), left_in_words(400), left_in_words(8000)
        ('estimating', 'under a minute left', 'about 7 min left', 'about 2.2 h left')
    """
    if seconds is None:
        return "estimating"
    if seconds < 60:
        return "under a minute left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"
