"""The recipes of local learning against backpropagation: test error of a cut residual network over that of its twin.

    python benchmarks/recipes.py [--recipes NAME ...] [--parts 2 4] [--seeds 0] [--report]

One residual network for small images (or, with ``--backbone vit``, a vision transformer), cut into parts of about equal
multiply-adds, learns by each recipe; its twin is the same network, of the same first weights, trained end to end. All
of them see 10,000 training images of CIFAR-10 for 15 epochs, with crops and flips, under AdamW (betas 0.9 and 0.999;
learning rate 3e-3 and weight decay 0.01 of the residual network) and a one-cycle schedule. Nothing is chosen: one rate
for all; the last weights are tested, once. The ratio of the mean test errors comes with a 95 % interval from a paired
bootstrap over images and seeds.

Finished trainings are kept in ``results.jsonl`` and not run again; several processes may share the folder, each with
other recipes. ``rows.json`` has a row per recipe, which `docs/results/backbones.json` takes its errors from.
``--report`` runs nothing. The last line printed is one JSON object; the command fails if the best recipe's ratio is
above 1.05 for two parts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from fits import Verdicts, add_arguments, prepare
from intervals import Interval, mean_and_spread, paired_bootstrap
from kept_fits import Fit, Phase, Store, key_of
from lightning.pytorch import LightningModule, Trainer, seed_everything
from timing import Bound, conclude, machine
from torch import nn
from torch.optim import AdamW

from primenet_lightning import CutNet
from primenet_lightning.analysis.cost import count_cost
from primenet_lightning.datamodules import Augment, CIFAR10DataModule
from primenet_lightning.files import write_whole
from primenet_lightning.nn.cutting.recipes import RECIPES
from primenet_lightning.nn.resnets import SmallImageResNet
from primenet_lightning.nn.small_images import vit_tiny
from primenet_lightning.training.fitting import fit_and_test, quiet_trainer

TWIN = "end to end"
BATCH = 100
BOUNDS = [Bound("k2_best_over_twin", "at most", 1.05)]


class TimedVerdicts(Verdicts):
    """Notes how long a training took, and what the test then said.

    Attributes:
        batches: Of training.
        cpu_seconds: Of this process, in training.
        wall_seconds: By the clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0
        self._begin = (0.0, 0.0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start both clocks."""
        self._begin = (time.process_time(), time.perf_counter())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read both clocks."""
        now = (time.process_time(), time.perf_counter())
        self.cpu_seconds += now[0] - self._begin[0]
        self.wall_seconds += now[1] - self._begin[1]
        self.batches += 1
        self._begin = now


@dataclass(frozen=True)
class CutRun:
    """A training to be done: all that decides its result, which is what it is found again by.

    Attributes:
        recipe: Its name, or `TWIN`.
        parts: Into how many the network is cut; 1 of the twin.
        seed: Of weights, of the splits and of their order.
        epochs: How many.
        limit: Training images.
        depth: Layers of the residual network, or blocks of the transformer.
        width: Channels of the residual network's first group.
        learning_rate: Of all learners.
        precision: Of the Trainer.
        accelerator: Of the Trainer.
        weight_decay: Of all learners.
        backbone: ``"resnet"``, or ``"vit"``: a vision transformer of 4x4 patches, 192 channels wide.
    """

    recipe: str
    parts: int
    seed: int
    epochs: int
    limit: int
    depth: int
    width: int
    learning_rate: float
    precision: str
    accelerator: str
    weight_decay: float = 0.01
    backbone: Literal["resnet", "vit"] = "resnet"

    def options(self) -> dict[str, Any]:
        """Give all of it as JSON has it."""
        options = asdict(self)
        for name, default in (("backbone", "resnet"), ("weight_decay", 0.01)):
            if options[name] == default:  # trainings were stored before these two were options
                del options[name]
        return options

    def key(self) -> str:
        """What it is kept under."""
        return key_of(self.options())

    def model(self) -> CutNet:
        """Build the network; the backbone's first weights depend on the seed alone."""
        seed_everything(self.seed, verbose=False)
        local = self.recipe != TWIN
        return CutNet(
            self._backbone(),
            parts=self.parts if local else None,
            recipe=self.recipe if local else "greedy",
            local=local,
            optimizer=partial(AdamW, lr=self.learning_rate, betas=(0.9, 0.999), weight_decay=self.weight_decay),
            schedule="one_cycle",
        )

    def _backbone(self) -> nn.Module:
        if self.backbone == "vit":
            return vit_tiny((3, 32, 32), layers=self.depth)
        return SmallImageResNet(self.depth, width=self.width)

    def carry_out(self, root: str | None = None) -> Fit:
        """Train and test.

        Args:
            root: Folder of the data.
        """
        data = CIFAR10DataModule(
            root=root,
            seed=self.seed,
            limit_train=self.limit,
            batch_size=BATCH,
            normalization="standardize",
            augmentation=Augment(crop=4, padding_mode="reflect", flip=True),
        )
        model = self.model()
        cost = count_cost(model.network)
        verdicts = TimedVerdicts()
        trainer = quiet_trainer(
            self.epochs,
            [verdicts],
            accelerator=self.accelerator,
            precision=self.precision,
            check_val_every_n_epoch=self.epochs,
        )
        fitted = fit_and_test(trainer, model, data)
        taken = Phase(0, cost.multiply_adds_training, verdicts.batches, verdicts.cpu_seconds, verdicts.wall_seconds)
        return Fit(
            test_error=100 * (1 - statistics.mean(verdicts.correct)),
            validation_error=fitted.validation_error,
            correct=verdicts.correct,
            parameters=cost.parameters,
            multiply_adds_inference=cost.multiply_adds_inference,
            multiply_adds_training=cost.multiply_adds_training,
            changed=[],
            phases=[taken],
        )


def runs_of(recipe: str, parts: int, options: argparse.Namespace) -> list[CutRun]:
    """Make the trainings of a recipe, one per seed."""
    return [
        CutRun(
            recipe,
            1 if recipe == TWIN else parts,
            seed,
            options.epochs,
            options.limit,
            options.depth,
            options.width,
            options.learning_rate,
            options.precision,
            options.accelerator,
            options.weight_decay,
            options.backbone,
        )
        for seed in options.seeds
    ]


def work(options: argparse.Namespace, store: Store) -> None:
    """Train what is missing."""
    for recipe in options.recipes:
        for parts in [1] if recipe == TWIN else options.parts:
            for run in runs_of(recipe, parts, options):
                fit = store.carry_out(run, options.root)
                print(
                    f"{recipe}, {run.parts} parts, seed {run.seed}: test error {fit.test_error:.2f} %, "
                    f"{fit.cpu_seconds:.0f} s of CPU",
                    flush=True,
                )


class Row(NamedTuple):
    """What came of the trainings of a recipe, over all seeds that its twin has too.

    Attributes:
        recipe: Its name, or `TWIN`.
        parts: Into how many the network was cut.
        seeds: How many.
        error: Mean test error in percent.
        spread: Standard deviation over the seeds; None for one seed.
        ratio: Value, low and high of the mean error over that of the twin on the same seeds; None for the twin.
        parameters: In training.
        multiply_adds_training: Of a step, per image.
        cpu_seconds: Of a training, on average.
    """

    recipe: str
    parts: int
    seeds: int
    error: float
    spread: float | None
    ratio: dict[str, float] | None
    parameters: int
    multiply_adds_training: int
    cpu_seconds: float

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" +- {self.spread:.2f}"
        ratio = ""
        if self.ratio is not None:
            ratio = ", over the twin: {value:.3f} ({low:.3f} to {high:.3f})".format(**self.ratio)
        return (
            f"{self.recipe:12} K={self.parts} {self.error:6.2f}{spread} % over {self.seeds} seeds, "
            f"{self.parameters:,} parameters, {self.multiply_adds_training / 1e6:.1f} M multiply-adds a training step "
            f"of an image, {self.cpu_seconds:.0f} s of CPU{ratio}"
        )


def report(options: argparse.Namespace, store: Store) -> list[Row]:
    """Print every recipe that is there beside the twin, over the seeds that both have.

    Returns:
        The twin's row, and one a recipe and number of parts; empty before the twin is trained.
    """
    results = store.results()
    twins = finished(runs_of(TWIN, 1, options), results)
    if not twins:
        print("the twin is not finished")
        return []
    rows = [_row(TWIN, 1, list(twins.values()), None)]
    for parts in options.parts:
        for recipe in RECIPES:
            fits = finished(runs_of(recipe, parts, options), results)
            seeds = [seed for seed in fits if seed in twins]
            if not seeds:
                continue
            of_recipe, of_twin = [fits[seed] for seed in seeds], [twins[seed] for seed in seeds]
            interval = paired_bootstrap([fit.correct for fit in of_recipe], [fit.correct for fit in of_twin])
            rows.append(_row(recipe, parts, of_recipe, interval))
    for row in rows:
        print(row)
    return rows


def figures_of(rows: Sequence[Row]) -> dict[str, float | str]:
    """Name the ratios; the best of a number of parts is told of the recipes with most seeds."""
    figures: dict[str, float | str] = {}
    best: dict[int, tuple[int, float]] = {}
    for row in rows:
        if row.ratio is None:
            continue
        name = f"k{row.parts}_{row.recipe}_over_twin"
        figures |= {name: row.ratio["value"], f"{name}_low": row.ratio["low"], f"{name}_high": row.ratio["high"]}
        figures[f"k{row.parts}_{row.recipe}_seeds"] = row.seeds
        rank = (-row.seeds, row.ratio["value"])
        best[row.parts] = min(best.get(row.parts, rank), rank)
    for parts, (_, value) in best.items():
        figures[f"k{parts}_best_over_twin"] = value
    return figures


def finished(runs: Sequence[CutRun], results: Mapping[str, Fit]) -> dict[int, Fit]:
    """Look up the trainings that are there, by seed."""
    return {run.seed: results[run.key()] for run in runs if run.key() in results}


def _row(recipe: str, parts: int, fits: Sequence[Fit], interval: Interval | None) -> Row:
    error, spread = mean_and_spread([fit.test_error for fit in fits])
    ratio = None if interval is None else {"value": interval.ratio, "low": interval.low, "high": interval.high}
    seconds = statistics.mean(fit.cpu_seconds for fit in fits)
    return Row(
        recipe, parts, len(fits), error, spread, ratio, fits[0].parameters, fits[0].multiply_adds_training, seconds
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "runs/recipes")
    parser.add_argument("--recipes", nargs="+", choices=[TWIN, *RECIPES], default=[TWIN, *RECIPES])
    parser.add_argument("--parts", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--limit", type=int, default=10_000, help="Training images.")
    parser.add_argument("--backbone", choices=["resnet", "vit"], default="resnet")
    parser.add_argument("--depth", type=int, default=14, help="Layers of resnet, 6 n + 2; or blocks of vit.")
    parser.add_argument("--width", type=int, default=16, help="Channels of its first group.")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--report", action="store_true", help="Sum up what there is.")
    return parser.parse_args()


def main() -> None:
    """Train what is missing, print the ratios, and one line of JSON."""
    options = parse()
    prepare(options.threads)
    store = Store(options.out / "results.jsonl")
    if not options.report:
        work(options, store)
    rows = report(options, store)
    write_whole(options.out / "rows.json", json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    conclude(
        figures_of(rows) | {"device": machine("cuda" if options.accelerator in ("cuda", "gpu") else "cpu")}, BOUNDS
    )


if __name__ == "__main__":
    main()
