"""``primenet probe``: phase 2 on a run folder."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from primenet_lightning.analysis.features import FeatureLayer, extract_features, feature_extractor
from primenet_lightning.analysis.prediction import load_model
from primenet_lightning.analysis.probe import WITHIN, ProbeResult, fit_finetuned, fit_probe, refuse_schedule
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.figures.style import COLOURS, new_figure, plain_log_scale
from primenet_lightning.files import write_whole
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
    refuse_schedule(options.epochs, options.batch_size, options.seed or 0)  # before the data are read
    run = RunFolder.existing(options.run)
    model = load_model(run.path)
    feature_extractor(model, options.layer)
    data = load_data(run)
    seed = data.seed if options.seed is None else options.seed
    result = _fit(model, data, options, seed)
    found = _report(run, data, options, seed, result)
    name = "-".join(["probe", *([options.layer] if options.layer != "head" else []), *_tuned(options)])
    write_whole(run.path / f"{name}.json", json.dumps(found, indent=2) + "\n")
    draw(result, options.layer, options.finetune, found["phase1_test_error"], run.path / f"figures/{name}.png")
    Console().print(_table(found))
    print(f"written: {run.path / name}.json")  # not by rich, which would wrap it
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
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
        type=bool,
        default=True,
        help="Whether scikit-learn's logistic regression is fitted on the same features as a check.",
    )
    parser.add_argument("--seed", type=int | None, default=None, help="Of the classifier; default: that of the run.")
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
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    described = config["data"]
    # the command line hands the seed on to the data when it builds them, so that the file has it once
    described["init_args"] = (described.get("init_args") or {}) | {"seed": config["seed_everything"]}
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
        return fit_probe(splits, data.num_classes, **schedule, logistic=options.logistic, on_epoch=advance)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Advance]:
    """A bar with an estimate of the time left, on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _tuned(options: Namespace) -> list[str]:
    return ["finetune"] if options.finetune else []


def _report(
    run: RunFolder, data: ImageDataModule, options: Namespace, seed: int, result: ProbeResult
) -> dict[str, Any]:
    """What ``probe.json`` holds; errors are counted in float32, which has no more digits."""
    summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8")) if run.is_finished else {}
    numbers = dataclasses.asdict(result)
    for name, value in numbers.items():
        if isinstance(value, list):
            numbers[name] = [round(one, 4) for one in value]
        elif isinstance(value, float):
            numbers[name] = round(value, 4)
    return {
        "dataset": data.dataset_name,
        "layer": options.layer,
        "finetune": options.finetune,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "seed": seed,
        "phase1_test_error": summary.get("test_error"),
        **numbers,
    }


def _table(found: dict[str, Any]) -> Table:
    """What came out, in a few lines."""
    title = f"{'Fine-tuning' if found['finetune'] else 'Linear probe'} on {found['dataset']}, seed {found['seed']}"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("measured", justify="right")
    for name, key, form in (
        ("test error of phase 1 (%)", "phase1_test_error", ".2f"),
        ("test error of the probe (%)", "test_error", ".2f"),
        ("test error of the logistic regression (%)", "logistic_test_error", ".2f"),
        (f"epochs until within {WITHIN} points, training", "epochs_until_converged", ""),
        (f"epochs until within {WITHIN} points, validation", "epochs_until_converged_validation", ""),
        ("features", "num_features", ","),
        ("time (s)", "seconds", ".1f"),
    ):
        if found[key] is not None:
            table.add_row(name, format(found[key], form))
    table.caption, table.caption_justify = f"layer {found['layer']}, {found['epochs']} epochs", "left"
    return table


def draw(result: ProbeResult, layer: FeatureLayer, finetune: bool, phase1_test_error: float | None, path: Path) -> None:
    """Draw accuracy and loss by epoch of phase 2, as in the paper's figure 7.

    Args:
        result: What to draw.
        layer: Of the features.
        finetune: Whether the network learned as well.
        phase1_test_error: In %, for the title; None if it is not known.
        path: The PNG file.
    """
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(result.train_accuracy) + 1)
    # a point an epoch where they can be told apart
    look: dict[str, Any] = {"marker": "o", "markersize": 3} if len(epochs) <= 60 else {}
    left.plot(epochs, result.train_accuracy, color=COLOURS[0], label="training, while learning", **look)
    left.plot(
        epochs,
        result.validation_accuracy,
        color=COLOURS[1],
        linestyle="--",
        label="validation, after the epoch",
        **look,
    )
    left.axvline(result.epochs_until_converged, color="grey", linestyle=":", linewidth=1)
    left.set_ylabel("accuracy (%)")
    left.legend(title=f"dotted: training within {WITHIN} points of its last", loc="lower right")
    right.plot(epochs, result.train_loss, color=COLOURS[0], **look)
    right.set_ylabel("training loss, while learning (nats)")
    plain_log_scale(right)
    for axes in (left, right):
        axes.set_xlabel("epoch of phase 2")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    before = "" if phase1_test_error is None else f"; phase 1: {phase1_test_error:.2f} %"
    what = "Fine-tuned with a linear classifier" if finetune else "Linear probe of frozen features"
    figure.suptitle(f"{what} (layer {layer}): test error {result.test_error:.2f} %{before}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
