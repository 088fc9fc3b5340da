"""``primenet probe``: phase 2 on a run folder."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from primenet_lightning.analysis.features import FeatureLayer, extract_features, feature_extractor
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.analysis.probe import WITHIN, ProbeResult, fit_finetuned, fit_probe, refuse_schedule
from primenet_lightning.arguments import first_line
from primenet_lightning.checksums import write_json
from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.commands.resumption import options_of
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.figures.probe import draw_probe
from primenet_lightning.figures.style import write_figure
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.training.learner import LocalLearner

Advance = Callable[[int], None]


def main(args: Sequence[str]) -> int:
    """Run the command: fit, write ``probe.json`` and ``figures/probe.png`` into the run folder, print a table.

    The files of other layers, and of fine-tuning, have names of their own; the same command replaces its own.

    Args:
        args: Command line after ``probe``.

    Returns:
        0.

    Raises:
        FileNotFoundError: If there is no such run, or it has no ``best.ckpt``.
        ValueError: If an option is impossible, or the features are not finite.
    """
    options = _parser().parse_args(list(args))
    # before the data are read
    refuse_schedule(options.epochs, options.batch_size, options.seed or 0)
    _refuse_accelerator(options.accelerator)
    if options.finetune and options.logistic:
        raise ValueError("logistic=True needs features that stay as they are; leave it out with --finetune true")
    run = RunFolder.existing(options.run)
    model = load_model(run.path)
    feature_extractor(model, options.layer)
    data = load_data(run)
    seed = data.seed if options.seed is None else options.seed
    result = _fit(model, data, options, seed)
    summary = _summary(run, data, options, seed, result)
    path = run.probe(*_marks(options))
    write_json(path, summary, indent=2)
    draw(result, options.layer, options.finetune, summary["phase1_test_error"], run.figure(path.stem))
    Console().print(_table(summary))
    print(f"written: {path}")  # not by rich, which would wrap it
    return 0


def _refuse_accelerator(accelerator: str) -> None:
    """Let Lightning look whether there is one, before anything runs."""
    try:
        Fabric(accelerator=accelerator, devices=1)
    except Exception as error:  # each kind of mistake has its own
        raise ValueError(
            f"accelerator={accelerator} cannot be had: {first_line(error).rstrip('.!')}; use auto or cpu"
        ) from error


def _marks(options: Namespace) -> list[str]:
    """What the files of a probe have in their name, beside its being a probe."""
    marks = []
    if options.layer != "head":
        marks.append(options.layer)
    if options.finetune:
        marks.append("finetune")
    return marks


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="primenet probe",
        description="Freeze a trained network and fit a linear classifier on its features: the paper's phase 2.",
    )
    parser.add_argument("run", type=str, help="Run folder; its best checkpoint is taken.")
    parser.add_argument(
        "--layer",
        type=str,
        default="head",
        help="head: what the head's last linear layer sees; routed: what the head sees, pooled to 4x4; capsules: the "
        "maps of all capsules of the last block, pooled to 4x4.",
    )
    parser.add_argument("--epochs", type=int, default=50, help="Passes over the training split.")
    parser.add_argument("--batch_size", type=int, default=32, help="Images in a batch.")
    parser.add_argument("--finetune", type=bool, default=False, help="Whether the network learns as well.")
    parser.add_argument(
        "--logistic",
        type=bool | None,
        default=None,
        help="Whether scikit-learn's logistic regression is fitted on the same features as a check; default: yes, but "
        "not of features that are fine-tuned.",
    )
    parser.add_argument("--seed", type=int | None, default=None, help="Of the classifier; default: that of the data.")
    parser.add_argument(
        "--accelerator",
        type=str,
        default="auto",
        help="Where images go through the network; a classifier on frozen features is fitted on the CPU.",
    )
    return parser


def load_data(run: RunFolder) -> ImageDataModule:
    """Build a run's data module from its ``config.yaml``, and read its data.

    Args:
        run: The run. Where it names no folder of the data, the environment variable ``PRIMENET_DATA`` does.

    Returns:
        The data module, set up, with the run's own splits.
    """
    config = options_of(run)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    described = config["data"]
    # the data have the run's seed, which the file has once, unless they were given one of their own
    described["init_args"] = {"seed": config["seed_everything"]} | (described.get("init_args") or {})
    data: ImageDataModule = parser.instantiate_classes(parser.parse_object({"data": described}))["data"]
    data.prepare_data()
    data.setup()
    return data


def _fit(model: LocalLearner, data: ImageDataModule, options: Namespace, seed: int) -> ProbeResult:
    layer: FeatureLayer = options.layer
    schedule = {"epochs": options.epochs, "batch_size": options.batch_size, "seed": seed}
    if options.finetune:
        with _progress("fine-tuning", options.epochs) as advance:
            return fit_finetuned(
                model, data, **schedule, layer=layer, accelerator=options.accelerator, on_epoch=advance
            )
    images = sum(map(len, (data.train_dataset, data.validation_dataset, data.test_dataset)))
    with _progress("extracting features", images) as advance:
        done = 0

        def count(images: int) -> None:
            nonlocal done
            done += images
            advance(done)

        device = Fabric(accelerator=options.accelerator, devices=1).device
        splits = extract_features(feature_extractor(model, layer), data, device, on_batch=count)
    with _progress("fitting the probe", options.epochs) as advance:
        return fit_probe(splits, data.num_classes, **schedule, logistic=options.logistic is not False, on_epoch=advance)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Advance]:
    """A bar with an estimate of the time left, on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _summary(
    run: RunFolder, data: ImageDataModule, options: Namespace, seed: int, result: ProbeResult
) -> dict[str, Any]:
    """What ``probe.json`` holds."""
    numbers = {name: _rounded(value) for name, value in dataclasses.asdict(result).items()}
    return {
        "dataset": data.dataset_name,
        "layer": options.layer,
        "finetune": options.finetune,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "seed": seed,
        "phase1_test_error": run.read_summary().get("test_error"),
        **numbers,
    }


def _rounded(value: Any) -> Any:
    """Numbers are counted in float32, which has no more digits."""
    if isinstance(value, list):
        return [_rounded(number) for number in value]
    if isinstance(value, float):
        return round(value, 4)
    return value


ROWS = (
    ("test error of phase 1 (%)", "phase1_test_error", ".2f"),
    ("test error of the probe (%)", "test_error", ".2f"),
    ("test error of the logistic regression (%)", "logistic_test_error", ".2f"),
    (f"epochs until within {WITHIN} points, training", "epochs_until_converged", ""),
    (f"epochs until within {WITHIN} points, validation", "epochs_until_converged_validation", ""),
    ("features", "num_features", ","),
    ("time (s)", "seconds", ".1f"),
)
"""What the printed table says: title, key in ``probe.json``, format."""


def _table(summary: Mapping[str, Any]) -> Table:
    """What came out, in a few lines."""
    phase = "Fine-tuning" if summary["finetune"] else "Linear probe"
    table = Table(title=f"{phase} on {summary['dataset']}, seed {summary['seed']}", title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    for name, key, form in ROWS:
        if summary[key] is not None:
            table.add_row(name, format(summary[key], form))
    table.caption = f"layer {summary['layer']}, {summary['epochs']} epochs"
    table.caption_justify = "left"
    return table


def draw(result: ProbeResult, layer: FeatureLayer, finetune: bool, phase1_test_error: float | None, path: Path) -> None:
    """Draw error and loss by epoch of phase 2, as in the paper's figure 7.

    Args:
        result: What to draw.
        layer: Of the features.
        finetune: Whether the network learned as well.
        phase1_test_error: In %, for the title; None if it is not known.
        path: The PNG file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(draw_probe(result, layer, finetune, phase1_test_error, WITHIN), path, "png")
