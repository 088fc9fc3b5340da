"""``primenet reproduce``: carries out what is missing of a reproduction, and reports."""

import shlex
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from primenet_lightning.arguments import first_line
from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.nn.prime.architecture import Size
from primenet_lightning.reproduction._carrying_out import carry_out, conditions_of
from primenet_lightning.reproduction._plan import Dataset, Part, Probing, Scale, extent, extent_of, plan
from primenet_lightning.reproduction._results import PARTS, Settings
from primenet_lightning.reproduction._trained import cost_of
from primenet_lightning.reproduction._workplace import Folder, OnEpoch, Workplace, make_data
from primenet_lightning.training.fitting import quietly

BATCH_SIZE, PROBE_BATCH_SIZE = 200, 32
"""The paper's, of both phases."""

HEAVY = "ResNets, multi-exit and the other systems"
"""What parts are called that have epochs and images of their own."""

OVERHEAD = 2_000_000
"""Multiply-adds per image that loading it, norms, losses and optimizers take the time of, roughly; for estimates."""


def _parse(args: Sequence[str]) -> Any:
    parser = CommandParser(
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
    parser.add_argument("--heavy_epochs", type=int | None, default=None, help=f"Of {HEAVY}, likewise.")
    parser.add_argument("--images", type=int | None, default=None, help="Training images, likewise.")
    parser.add_argument("--heavy_images", type=int | None, default=None, help=f"Of {HEAVY}, likewise.")
    parser.add_argument("--parts", type=list[str] | None, default=None, help="Only these, as '[prime,probe]'.")
    parser.add_argument("--precision", type=str, default="32-true", help="Of the Trainer.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Of the Trainer.")
    return parser.parse_args(list(args))


def _settings_of(options: Any) -> Settings:
    """The scale's settings, its numbers replaced by those that were given."""
    scale = extent(options.dataset, options.scale)
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
        epochs=options.epochs or scale.epochs,
        probe_epochs=options.probe_epochs or scale.probe_epochs,
        batch_size=BATCH_SIZE,
        probe_batch_size=PROBE_BATCH_SIZE,
        precision=options.precision,
        images=_at_most(options.images or scale.images, len(data.train_dataset)),
        heavy_images=_at_most(options.heavy_images or scale.heavy_images, len(data.train_dataset)),
        heavy_epochs=options.heavy_epochs or scale.heavy_epochs,
    )


def _refuse_trainer(precision: str, accelerator: str) -> None:
    """Let Lightning look at what it will be given, before anything is written."""
    try:
        Trainer(accelerator=accelerator, devices=1, precision=precision, logger=False, enable_checkpointing=False)  # type: ignore[arg-type]
    except Exception as error:  # each kind of mistake has its own
        raise ValueError(
            f"precision={precision!r} with accelerator={accelerator!r} cannot be had: {first_line(error)}"
        ) from None


def _at_most(images: int | None, there: int) -> int | None:
    """How many images a part sees: None for all, also where more are asked for than there are.

    Example:
        >>> _at_most(10_000, 54_000), _at_most(10_000, 974), _at_most(None, 974)
        (10000, None, None)
    """
    return images if images is not None and images < there else None


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

    options = _parse(args)
    parts = plan(options.parts or extent(options.dataset, options.scale).parts, options.dataset)
    with quietly():
        settings = _settings_of(options)
    folder = Folder(Path(options.out or f"reproduction/{options.dataset}-{options.scale}"))
    for part in parts:
        for seed in range(settings.seeds):
            folder.check(part.name, seed, conditions_of(part, settings))
    folder.begin(settings)
    again = shlex.join(["primenet", "reproduce", *args])
    try:
        _carry_out_all(parts, Workplace(folder, settings, options.root, options.accelerator, again))
    finally:  # an interrupted one reports what there is
        if folder.has_results:
            for path in write_pages(folder.results(), folder.path):
                print(path)
    return 0


def _carry_out_all(parts: Sequence[Part], place: Workplace) -> None:
    """Carry out all parts with all seeds, and say how far it is."""
    turns = [(part, seed) for seed in range(place.settings.seeds) for part in parts]
    missing = [(part, seed) for part, seed in turns if place.folder.result(part.name, seed) is None]
    console = Console()
    console.print(f"{len(turns) - len(missing)} of {len(turns)} parts are there; {len(missing)} to run")
    work = _work_of([part for part, _ in missing], place)
    # parts differ in how fast they go: the time left is told from all that is done, not from the last seconds
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, speed_estimate_period=1e9) as bar, quietly():
        task = bar.add_task("", total=sum(work[part.name] for part, _ in missing))
        bar.advance(task, 0)  # from now on it counts
        done = 0.0
        for number, (part, seed) in enumerate(missing, 1):
            began = time.perf_counter()
            title = f"{PARTS[part.name]}, seed {seed}"
            bar.update(task, description=title)
            result = carry_out(part, seed, place, _watch(part, place, bar, task, work[part.name]))
            done += work[part.name]
            bar.update(task, completed=done)  # also what an interrupted process had done of it
            error = "" if result.test_error is None else f"test error {result.test_error:.2f} %, "
            line = f"[{number}/{len(missing)}] {title}: {error}{time.perf_counter() - began:.0f} s"
            left = timedelta(seconds=bar.tasks[0].time_remaining or 0)
            console.print(f"{line}; about {left} left", markup=False, highlight=False, soft_wrap=True)


def _watch(part: Part, place: Workplace, bar: Progress, task: TaskID, work: float) -> OnEpoch:
    """Advance the bar by the work of an epoch, for each."""
    epochs, _ = extent_of(part, place.settings)
    return lambda epoch, seconds: bar.advance(task, work / epochs)


def _work_of(parts: Sequence[Part], place: Workplace) -> dict[str, float]:
    """Multiply-adds that parts take, roughly, with one seed each."""
    work: dict[str, float] = {}
    if not parts:
        return work
    data = place.load(0, None)
    for part in parts:
        if part.name in work:
            continue
        epochs, images = extent_of(part, place.settings)
        per_image = OVERHEAD
        if not isinstance(part, Probing):
            per_image += cost_of(part.build(data, cast(Size, place.settings.size))).multiply_adds_training
        work[part.name] = float(epochs * (images or len(data.train_dataset)) * per_image)
    return work
