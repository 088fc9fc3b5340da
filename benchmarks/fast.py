"""The fast recipe, learned locally, against its end-to-end twin: what closes the gap, and whether training widens it.

    python benchmarks/fast.py [--config configs/fast/cifar10.yaml] [--variants NAME ...] [--epochs 16] [--limit 10000]
                              [--seeds 0] [--out runs/fast] [--report]

Each training is a run of the command, ``primenet fit --config ...``, with the options of a variant, in a folder of its
own under ``--out``: one that was broken off goes on, one that is finished is not run again. With ``--limit`` so many
images are trained on, and 5,000 others choose; without, all images are trained on, nothing chooses, and the weights of
the last epoch are tested. Every run reads the test images once.

The report sets each variant beside the twin of equal epochs and images: test errors without, and with logits of flipped
images averaged, and their ratios with 95 % intervals from a paired bootstrap over images and seeds. For it the tested
checkpoint says once more which images it gets right. ``rows.json`` has the rows; ``--report`` trains nothing. The last
line printed is one JSON object.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from commanded import arguments_of, carry_out, folder_name, is_finished, summary_of
from fits import Verdicts, add_arguments, prepare
from intervals import Interval, mean_and_spread, paired_bootstrap
from kept_fits import as_text, from_text
from lightning.pytorch import LightningModule, Trainer
from timing import conclude, machine

from primenet_lightning import datamodules
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.files import write_whole
from primenet_lightning.training.fitting import quiet_trainer, quietly

TWIN = "end to end"

ROUNDING = 0.1
"""By how much the error may differ, in %, if the same checkpoint is tested again in bfloat16, where a few images stand
on the border between two classes; the rows have the error of the run's own test."""

SMALL = "blocks: shrinking, ending: copy, direct: true"
"""A small model of what follows: a layer for each time that the maps are halved, and the model's own ending."""

WHOLE = "ending: copy, direct: true"
"""All layers that follow."""

CLASSIFIER = f"{{layers_that_follow: {{depth: 1, width: 0.5, {SMALL}}}}}"


def _auglocal(options: str, label_smoothing: str = "0.2") -> str:
    return f"{{auglocal: {{{options}, label_smoothing: {label_smoothing}}}}}"


_THREE, _EARLY, _LATE = "[groups.1, groups.2]", "[groups.1]", "[groups.2]"

VARIANTS: dict[str, Mapping[str, str]] = {
    TWIN: {"model.local": "false"},
    "2 parts, late cut, whole copy": {
        "model.at": _LATE,
        "model.recipe": _auglocal(f"depth: 4, pyramid: 1.0, {WHOLE}"),
    },
    "2 parts, late cut": {"model.at": _LATE, "model.recipe": _auglocal(f"depth: 1, {SMALL}")},
    "2 parts, early cut": {"model.at": _EARLY, "model.recipe": _auglocal(f"depth: 2, width: 0.5, {SMALL}")},
    "3 parts": {"model.at": _THREE, "model.recipe": _auglocal(f"depth: 2, width: [0.5, 1.0], {SMALL}")},
    "3 parts, softer targets": {
        "model.at": _THREE,
        "model.recipe": _auglocal(f"depth: 2, width: [0.5, 1.0], {SMALL}", "[0.3, 0.2]"),
    },
    "3 parts, whole half-wide copies": {
        "model.at": _THREE,
        "model.recipe": _auglocal(f"depth: 4, width: 0.5, {WHOLE}"),
    },
    "3 parts, similarity": {"model.at": _THREE, "model.recipe": "{predsim: {weight: 0.5, label_smoothing: 0.2}}"},
    "3 parts, averaged copy": {
        "model.at": _THREE,
        "model.recipe": f"{{man: {{classifier: {CLASSIFIER}, label_smoothing: 0.2}}}}",
    },
    "3 parts, overlap": {
        "model.at": _THREE,
        "model.recipe": f"{{overlap: {{classifier: {CLASSIFIER}, label_smoothing: 0.2}}}}",
    },
}
"""Options of the command by name."""


@dataclass(frozen=True)
class Run:
    """A training to be done.

    Attributes:
        variant: Of `VARIANTS`.
        config: The file of the recipe.
        epochs: How many.
        limit: Training images; None for all.
        seed: Of everything random.
    """

    variant: str
    config: Path
    epochs: int
    limit: int | None
    seed: int

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / self.config.stem / folder_name(self.variant, self.limit, self.epochs, self.seed)

    def arguments(self, folder: Path, root: str) -> list[str]:
        """What comes behind ``primenet fit``, to begin it."""
        options = {"config": str(self.config), **VARIANTS[self.variant]}
        return arguments_of(options, folder, root, self.epochs, self.limit, self.seed)

    def carry_out(self, out: Path, root: str) -> None:
        """Train, or go on; then test."""
        folder = self.folder(out)
        carry_out(folder, self.arguments(folder, root))


class Judged(NamedTuple):
    """What a finished run came to.

    Attributes:
        summary: As in its folder.
        plain: Whether each test image is classified correctly.
        flips: The same by logits averaged with those of the mirror image.
    """

    summary: dict[str, Any]
    plain: list[bool]
    flips: list[bool]


class BothVerdicts(Verdicts):
    """Notes which test images are classified correctly, by averaged logits too.

    Attributes:
        correct: By the logits of the images as they are, in order.
        averaged: By logits averaged with those of the mirror images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.averaged: list[bool] = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *which: int
    ) -> None:
        """Compare both verdicts with the labels."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.averaged += (outputs["logits_of_views"].argmax(1) == batch[1]).tolist()


def judge(folder: Path, root: str) -> Judged:
    """Read what a run came to, and which test images its checkpoint gets right; the latter once.

    Args:
        folder: Of a finished run.
        root: Of the data.

    Returns:
        What it came to.

    Raises:
        ValueError: If the checkpoint has other errors than the run had.
    """
    summary = summary_of(folder)
    file = folder / "verdicts.json"
    if not file.exists():
        verdicts = _verdicts_of(folder, root)
        texts = {"plain": as_text(verdicts.correct), "averaged": as_text(verdicts.averaged)}
        write_whole(file, json.dumps(texts) + "\n")
    texts = json.loads(file.read_text(encoding="utf-8"))
    plain, flips = from_text(texts["plain"]), from_text(texts["averaged"])
    error = 100 * (1 - statistics.mean(plain))
    if abs(error - summary["test_error"]) > ROUNDING:
        raise ValueError(
            f"{folder}: the checkpoint has {error:.2f} % of errors, and the run had {summary['test_error']}"
        )
    return Judged(summary, plain, flips)


def _verdicts_of(folder: Path, root: str) -> BothVerdicts:
    options = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    model = load_model(folder)
    kind = getattr(datamodules, options["data"]["class_path"].rpartition(".")[2])
    data: ImageDataModule = kind(root=root, normalization=options["data"]["init_args"]["normalization"])
    verdicts = BothVerdicts()
    with quietly():
        quiet_trainer(1, [verdicts], precision=options["trainer"]["precision"]).test(model, data, verbose=False)
    return verdicts


class Row(NamedTuple):
    """A variant beside its twin.

    Attributes:
        variant: Its name.
        epochs: How many.
        images: Trained on; None for all.
        seeds: Of its runs.
        errors: Test errors in %, by seed.
        errors_flips: The same with averaged logits.
        ratio: Value, low and high of the mean error over the twin's of the same seeds; None without one.
        ratio_flips: The same with averaged logits.
        validation_errors: In %, by seed; empty where there are no validation images.
        parameters: In training.
        multiply_adds_inference: Of an answer.
        multiply_adds_training: Of a step, per image.
        seconds: Of a training, by the clock of a machine that is shared.
    """

    variant: str
    epochs: int
    images: int | None
    seeds: list[int]
    errors: list[float]
    errors_flips: list[float]
    ratio: dict[str, float] | None
    ratio_flips: dict[str, float] | None
    validation_errors: list[float]
    parameters: int
    multiply_adds_inference: int
    multiply_adds_training: int
    seconds: float

    def __str__(self) -> str:
        parts = [f"{self.variant:32} {self.epochs:3} epochs, {len(self.seeds)} seeds:"]
        for errors, ratio in ((self.errors, self.ratio), (self.errors_flips, self.ratio_flips)):
            mean, spread = mean_and_spread(errors)
            parts.append(f"{mean:.2f}" + ("" if spread is None else f" +- {spread:.2f}"))
            if ratio is not None:
                parts.append("({value:.3f}, {low:.3f} to {high:.3f})".format(**ratio))
        if self.validation_errors:
            parts.append(f"validation {statistics.mean(self.validation_errors):.2f}")
        return " ".join(parts)


def row_of(variant: str, options: argparse.Namespace) -> Row | None:
    """Set a variant beside the twin, over the seeds that both have.

    Args:
        variant: Its name.
        options: Of the command line.

    Returns:
        The row; None where no run is finished.
    """
    of_variant, of_twin = finished(variant, options), finished(TWIN, options)
    if not of_variant:
        return None
    both = [seed for seed in of_variant if seed in of_twin and variant != TWIN]
    ratio = ratio_flips = None
    if both:
        ratio = _ratio(paired_bootstrap([of_variant[s].plain for s in both], [of_twin[s].plain for s in both]))
        ratio_flips = _ratio(paired_bootstrap([of_variant[s].flips for s in both], [of_twin[s].flips for s in both]))
    runs = list(of_variant.values())
    summary = runs[0].summary
    return Row(
        variant,
        options.epochs,
        options.limit,
        list(of_variant),
        [run.summary["test_error"] for run in runs],
        [run.summary["test_error_flips"] for run in runs],
        ratio,
        ratio_flips,
        [run.summary["validation_error"] for run in runs if "validation_error" in run.summary],
        summary["parameters"],
        summary["multiply_adds_inference"],
        summary["multiply_adds_training"],
        round(statistics.mean(run.summary["seconds"] for run in runs)),
    )


def _ratio(interval: Interval) -> dict[str, float]:
    return {"value": round(interval.ratio, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def finished(variant: str, options: argparse.Namespace) -> dict[int, Judged]:
    """Judge the runs of a variant that are finished, by seed."""
    judged: dict[int, Judged] = {}
    for seed in options.seeds:
        folder = Run(variant, options.config, options.epochs, options.limit, seed).folder(options.out)
        if is_finished(folder):
            judged[seed] = judge(folder, options.root)
    return judged


def figures_of(rows: Sequence[Row]) -> dict[str, float | str]:
    """Name the ratios."""
    figures: dict[str, float | str] = {}
    for row in rows:
        if row.ratio is not None and row.ratio_flips is not None:
            name = row.variant.replace(",", "").replace(" ", "_")
            figures |= {f"{name}_over_twin": row.ratio["value"], f"{name}_flips_over_twin": row.ratio_flips["value"]}
    return figures


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "runs/fast")
    parser.add_argument("--config", type=Path, default=Path("configs/fast/cifar10.yaml"))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--limit", type=int, help="Training images; all by default.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--report", action="store_true", help="Sum up what there is.")
    return parser.parse_args()


def main() -> None:
    """Train what is missing, print the rows, and one line of JSON."""
    options = parse()
    prepare(options.threads)
    if not options.report:
        for seed in options.seeds:
            for variant in options.variants:
                Run(variant, options.config, options.epochs, options.limit, seed).carry_out(options.out, options.root)
    rows = [row for row in (row_of(variant, options) for variant in VARIANTS) if row is not None]
    for row in rows:
        print(row)
    images = "all" if options.limit is None else str(options.limit)
    file = options.out / options.config.stem / f"rows-{images}-{options.epochs}.json"
    write_whole(file, json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    conclude(figures_of(rows) | {"device": machine("cpu")}, [])


if __name__ == "__main__":
    main()
