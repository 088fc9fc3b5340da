"""The systems of the paper's table 2 beside PrimeNet at equal data: error against multiply-adds at inference.

    python benchmarks/systems.py [--rows NAME ...] [--limit N] [--epochs N] [--seeds 0 1] [--precision 32-true]
                                 [--out runs/systems] [--report]

Each training is a run of the command, ``primenet fit``, with the options of a row of `ROWS`, in a folder of its own
under ``--out``: one that was broken off goes on, one that is finished is not run again. Rows train on 10,000 images of
CIFAR-10, or on 54,000 of MNIST, and a tenth of all is held out to choose by. A row that begins with another one's
network comes after it, with the same seed. The test images choose nothing. ``--limit`` and ``--epochs`` replace
the images and the epochs of all rows; to try it out: ``--limit 1000 --epochs 1``.

The report gives each row its errors, and of networks of dynamic cost a curve over budget, balance or threshold with the
mean multiply-adds of the test images as really taken. Of DT-RAM also: errors after each fixed number of glimpses, by a
classifier that was fitted to just that number, for as many steps as its stop policy; and the threshold that held-out
images chose. Parts of a network are tested alone, too: exits, branches, fixed widths. Each paper's claim is judged.
``rows-PRECISION.json`` has both; ``docs/tools/charts.py`` draws a copy of it, ``docs/results/systems.json``.
``--report`` trains nothing. The last line printed is one JSON object.
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
from fits import add_arguments, prepare
from glimpses import errors_of_fixed_steps
from intervals import mean_and_spread
from system_claims import judge
from system_points import chosen_point, points_of
from timing import conclude, machine

from primenet_lightning import datamodules
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.baselines import DTRAMNet
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.files import write_whole
from primenet_lightning.reproduction._curves import curve_of

Options = Mapping[str, str]

CIFAR10: Options = {
    "data": "cifar10",
    "data.batch_size": "64",
    "data.normalization": "standardize",
    "data.augmentation": "{class_path: primenet_lightning.datamodules.Augment, init_args: {crop: 4, flip: true}}",
}
MNIST: Options = {"data": "mnist", "data.batch_size": "128"}
DATA = {"cifar10": CIFAR10, "mnist": MNIST}

IMAGES = {"cifar10": 10_000, "mnist": 54_000}
"""Training images of a data set."""


def _optimizer(name: str, **options: float | bool) -> str:
    return json.dumps({"class_path": f"torch.optim.{name}", "init_args": options})


SGD: Options = {
    "model.optimizer": _optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "model.schedule": "cosine",
}
ADAM: Options = {"model.optimizer": _optimizer("Adam", lr=1e-3), "model.schedule": "cosine"}
RNP: Options = {
    **ADAM,
    "model.head_optimizer": _optimizer("Adam", lr=2e-3),
    "model.loss_weight": "1",
    "model.pretraining": "0.22",
}
DT_RAM: Options = {
    "model.optimizer": _optimizer("Adam", lr=2e-3),
    "model.schedule": "one_cycle",
    "model.locator_width": "128",
    "model.first_location": "centre",
    "model.stop_share": "0.25",
}


@dataclass(frozen=True)
class Row:
    """A network, and how it is trained.

    Attributes:
        name: Of the row.
        group: What it is drawn as.
        data: Of `DATA`.
        model: Its short name on the command line.
        options: Of the command.
        epochs: How many.
        begins_with: The row whose network it begins with, as ``--model.trained``.
    """

    name: str
    group: str
    data: str
    model: str
    options: Options
    epochs: int = 15
    begins_with: str | None = None


EQUILIBRIUM = "MSDNet, equilibrium"

ROWS = (
    Row("PrimeNet", "PrimeNet", "cifar10", "prime", ADAM),
    Row("PrimeNet, paper size", "PrimeNet", "cifar10", "prime", {"model.size": "paper", **ADAM}),
    Row("PrimeNet, end to end", "PrimeNet", "cifar10", "prime",
        {"model.local": "false", "model.router": "concatenate", **ADAM}),
    Row("CondenseNet-86", "CondenseNet", "cifar10", "condensenet86", SGD),
    Row("CondenseNet-86, dense", "CondenseNet", "cifar10", "condensenet86", {"model.condensation": "1", **SGD}),
    Row("CondenseNet-86, fixed groups", "CondenseNet", "cifar10", "condensenet86", {"model.learned": "false", **SGD}),
    Row("MSDNet, sum", "MSDNet and IMTA", "cifar10", "msdnet", SGD),
    Row(EQUILIBRIUM, "MSDNet and IMTA", "cifar10", "msdnet", {"model.equilibrium": "coarsest", **SGD}),
    Row("IMTA", "MSDNet and IMTA", "cifar10", "imta", SGD, begins_with=EQUILIBRIUM),
    Row("ONE", "ONE", "cifar10", "one", SGD),
    Row("ResNet-32", "ONE", "cifar10", "one_target", SGD),
    Row("RNP", "RNP", "cifar10", "rnp", RNP, epochs=25),
    Row("PrimeNet on MNIST", "PrimeNet", "mnist", "prime", ADAM),
    Row("DT-RAM", "DT-RAM", "mnist", "dt_ram", DT_RAM, epochs=40),
)  # fmt: skip
"""All rows; one that begins with another one comes later."""

BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Run:
    """A training to be done.

    Attributes:
        row: What is trained.
        epochs: How many.
        limit: Training images.
        seed: Of everything random.
        precision: Of the Trainer.
    """

    row: Row
    epochs: int
    limit: int
    seed: int
    precision: str

    @classmethod
    def of(cls, row: Row, options: argparse.Namespace, seed: int) -> "Run":
        """Take what the command line says."""
        limit = options.limit or IMAGES[row.data]
        return cls(row, options.epochs or row.epochs, limit, seed, options.precision)

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        name = folder_name(self.row.name, self.limit, self.epochs, self.seed)
        return out / self.row.data / self.precision / name

    def arguments(self, out: Path, root: str) -> list[str]:
        """What comes behind ``primenet fit``, to begin it."""
        options = {**DATA[self.row.data], "model": self.row.model, **self.row.options}
        options["trainer.precision"] = self.precision
        before = self.before
        if before is not None:
            options["model.trained"] = str(before.folder(out))
        return arguments_of(options, self.folder(out), root, self.epochs, self.limit, self.seed)

    @property
    def before(self) -> "Run | None":
        """The training that this one begins with, of as many epochs."""
        if self.row.begins_with is None:
            return None
        return Run(BY_NAME[self.row.begins_with], self.epochs, self.limit, self.seed, self.precision)

    def carry_out(self, out: Path, root: str) -> None:
        """Train, or go on, and before it what it begins with; then test, and measure its curve."""
        if self.before is not None:
            self.before.carry_out(out, root)
        carry_out(self.folder(out), self.arguments(out, root))
        measure(self.folder(out), root)


# -- what a run came to ------------------------------------------------------------------------------------------------


def measure(folder: Path, root: str) -> dict[str, Any]:
    """Measure error against cost, once, and keep it beside the run.

    Args:
        folder: Of a finished run.
        root: Of the data.

    Returns:
        ``curve``, empty of a network of one cost; ``points``, of its parts; ``fixed``, the errors of fixed numbers of
        glimpses; and ``chosen``, the point of DT-RAM's curve that held-out images chose.
    """
    file = folder / "measured.json"
    if not file.exists():
        model, data = load_model(folder), data_of(folder, root)
        points = [point._asdict() for point in points_of(model, data)]
        curve: Sequence[Any] = curve_of(model, data)
        measured: dict[str, Any] = {"curve": curve, "points": points, "fixed": []}
        measured["chosen"] = chosen_point(model, data, curve)
        if isinstance(model, DTRAMNet):
            measured["fixed"] = errors_of_fixed_steps(model, data)
        write_whole(file, json.dumps(measured) + "\n")
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return kept


def data_of(folder: Path, root: str) -> ImageDataModule:
    """Set up the data of a run with its very splits, but not augmented."""
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    options = config["data"]["init_args"]
    kind = getattr(datamodules, config["data"]["class_path"].rpartition(".")[2])
    taken = {name: options[name] for name in ("validation_fraction", "limit_train", "normalization", "batch_size")}
    data: ImageDataModule = kind(root=root, seed=config["seed_everything"], **taken)
    data.prepare_data()
    data.setup("fit")
    return data


class Result(NamedTuple):
    """A row over its seeds.

    Attributes:
        name: Of the row.
        group: What it is drawn as.
        data: Its data set.
        epochs: How many.
        images: Trained on.
        seeds: Of its runs.
        errors: Test errors in %, by seed: of all exits, at the balance or threshold of training.
        validation_errors: In %, by seed.
        parameters: As counted for the answer.
        multiply_adds: Of an answer of the whole network.
        curve: Setting, mean error, mean multiply-adds, and of DT-RAM mean glimpses, over the seeds.
        points: Name, mean error and multiply-adds of each part used alone: exits, branches, fixed widths.
        fixed: Mean errors after 1, 2, ... glimpses, by classifiers fitted to them.
        chosen: By seed, the point of the curve that held-out images chose; None where nothing was to be chosen.
        seconds: Of a training, by the clock of a machine that is shared.
    """

    name: str
    group: str
    data: str
    epochs: int
    images: int
    seeds: list[int]
    errors: list[float]
    validation_errors: list[float]
    parameters: int
    multiply_adds: int
    curve: list[dict[str, float]]
    points: list[dict[str, Any]]
    fixed: list[float]
    chosen: list[dict[str, float] | None]
    seconds: float

    def __str__(self) -> str:
        mean, spread = mean_and_spread(self.errors)
        text = f"{mean:.2f}" + ("" if spread is None else f" +- {spread:.2f}")
        parts = [f"{self.name:30} {self.epochs:3} epochs, {len(self.seeds)} seeds: {text} %,"]
        parts.append(f"{self.multiply_adds / 1e6:.2f} M multiply-adds")
        for point in self.curve:
            parts.append(f"({point['setting']:g}: {point['error']:.2f} % at {point['multiply_adds'] / 1e6:.2f} M)")
        for point in self.points:
            parts.append(f"({point['name']}: {point['error']:.2f} % at {point['multiply_adds'] / 1e6:.2f} M)")
        if self.fixed:
            settings = [point and point["setting"] for point in self.chosen]
            parts.append(f"fixed glimpses {self.fixed}, thresholds chosen on held-out images {settings}")
        return " ".join(parts)


def result_of(row: Row, options: argparse.Namespace) -> Result | None:
    """Gather the finished runs of a row; None where there is none."""
    runs = [Run.of(row, options, seed) for seed in options.seeds]
    runs = [run for run in runs if is_finished(run.folder(options.out))]
    if not runs:
        return None
    folders = [run.folder(options.out) for run in runs]
    summaries = [summary_of(folder) for folder in folders]
    measured = [measure(folder, options.root) for folder in folders]
    fixed = zip(*(of_seed["fixed"] for of_seed in measured), strict=True)
    return Result(
        row.name,
        row.group,
        row.data,
        runs[0].epochs,
        runs[0].limit,
        [run.seed for run in runs],
        [summary["test_error"] for summary in summaries],
        [summary["validation_error"] for summary in summaries],
        summaries[0]["parameters"],
        summaries[0]["multiply_adds_inference"],
        mean_curve([of_seed["curve"] for of_seed in measured]),
        mean_points([of_seed["points"] for of_seed in measured]),
        [round(statistics.mean(errors), 3) for errors in fixed],
        [of_seed["chosen"] for of_seed in measured],
        round(statistics.mean(summary["seconds"] for summary in summaries)),
    )


def mean_curve(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Average curves over their seeds, setting by setting.

    Args:
        curves: One a seed, all of the same settings.

    Returns:
        The means.
    """
    means: list[dict[str, float]] = []
    for points in zip(*curves, strict=True):
        means.append({name: statistics.mean(point[name] for point in points) for name in points[0]})
    return means


def mean_points(points: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Average the errors of parts over seeds.

    Args:
        points: One list a seed, all of the same parts.

    Returns:
        The parts, with their mean errors.
    """
    means: list[dict[str, Any]] = []
    for of_part in zip(*points, strict=True):
        means.append({**of_part[0], "error": statistics.mean(point["error"] for point in of_part)})
    return means


# -- the command -------------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "runs/systems")
    parser.add_argument("--rows", nargs="+", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--epochs", type=int, help="Of all rows; by default each has its own.")
    parser.add_argument("--limit", type=int, help="Training images of all rows; by default those of `IMAGES`.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--precision", default="32-true", help="Of the Trainer.")
    parser.add_argument("--report", action="store_true", help="Sum up what there is.")
    return parser.parse_args()


def main() -> None:
    """Train what is missing, print the rows and the verdicts, and print one line of JSON."""
    options = parse()
    prepare(options.threads)
    if not options.report:
        for seed in options.seeds:
            for name in options.rows:
                Run.of(BY_NAME[name], options, seed).carry_out(options.out, options.root)
    results = [result for result in (result_of(row, options) for row in ROWS) if result is not None]
    for result in results:
        print(result)
    rows = [result._asdict() for result in results]
    judged = judge(rows)
    for claim in judged:
        print(f"{claim.system}: {claim.words}: {claim.claimed:.2f} against {claim.other:.2f} %: {claim.verdict}")
    name = "-".join(str(part) for part in (options.limit, options.epochs, options.precision) if part is not None)
    stored = {"rows": rows, "claims": [claim._asdict() for claim in judged]}
    write_whole(options.out / f"rows-{name}.json", json.dumps(stored, indent=1) + "\n")
    figures: dict[str, float | str] = {"device": machine(options.accelerator)}
    for result in results:
        figures[f"{result.name.replace(',', '').replace(' ', '_')}_error"] = statistics.mean(result.errors)
    conclude(figures, [])


if __name__ == "__main__":
    main()
