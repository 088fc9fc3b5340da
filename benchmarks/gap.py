"""The gap to backprop: test error of local learning over that of the same network trained end to end.

    python benchmarks/gap.py [--dataset cifar10|mnist|svhn] [--root DIR] [--out DIR] [--side local|twin] [--report]

Network, augmentation and training are those of ``configs/deep/<dataset>.yaml``, on 10,000 training images; the twin
differs in ``local: false`` alone. Each side gets the same small search: the learning rate of least error on the
validation split, of one seed. With it both are trained for all seeds. Every training is tested once, at its end; the
search does not look at that. The ratio of the mean test errors comes with a 95 % interval from a paired bootstrap over
images and seeds.

Finished trainings are kept in ``results.jsonl`` and not run again; two processes share the work with ``--side local``
and ``--side twin`` in the same folder, and ``--report`` runs nothing. At the end ``summary_<dataset>.json`` says what
there is. The last line printed is one JSON object; the command fails if the ratio on CIFAR-10 is above 1.15.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from fits import Run, add_arguments, prepare
from intervals import mean_and_spread, paired_bootstrap
from kept_fits import Fit, Store
from timing import Bound, conclude, machine

from primenet_lightning.files import write_whole

CONFIGS = Path(__file__).parents[1] / "configs" / "deep"
SIDES = {"local": True, "twin": False}
RATES = (1.5e-3, 3e-3, 6e-3)
OPTIMIZERS = ("capsule_optimizer", "head_optimizer")
BOUNDS = [Bound("cifar10_local_over_twin", "at most", 1.15)]
REPLACED = ("capsule_optimizer", "head_optimizer", "capsule_scheduler", "head_scheduler", "schedule", "local")
"""Arguments of the model that the search, or the side, decides."""


def recipe(dataset: str, config: Mapping[str, Any]) -> Run:
    """Make of a configuration of the command line the training that both sides share.

    Args:
        dataset: Name of the data set.
        config: As in ``configs/deep``: model, data, trainer.

    Returns:
        The run, with all training images.

    Raises:
        ValueError: If it has a callback or an augmentation that is not carried over, and would be lost.
    """
    model = dict(config["model"].get("init_args", {}))
    optimizer = _same_adamw(model)
    data = dict(config["data"].get("init_args", {}))
    trainer = config["trainer"]
    averaging, augmentation = None, _arguments(data.pop("augmentation", None), "Augment")
    for callback in trainer.get("callbacks") or []:
        averaging = (_arguments(callback, "AveragedWeights") or {}).get("decay", 0.999)
    return Run(
        dataset,
        {name: value for name, value in model.items() if name not in (*REPLACED, "evaluate_capsules")},
        trainer["max_epochs"],
        data_options={name: value for name, value in data.items() if name not in ("root", "seed")},
        augmentation=augmentation,
        schedule=model.get("schedule", "one_cycle"),
        averaging=averaging,
        weight_decay=optimizer["weight_decay"],
        betas=tuple(optimizer["betas"]),
        precision=str(trainer.get("precision", "32-true")),
    )


def _same_adamw(model: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the optimizer that capsules and head share; of those left out, AdamW's own."""
    own = {"lr": 1e-3, "weight_decay": 1e-2, "betas": [0.9, 0.999]}
    capsules, head = (own | (_arguments(model.get(name), "AdamW") or {}) for name in OPTIMIZERS)
    if capsules | {"lr": None} != head | {"lr": None} or set(capsules) - set(own):
        raise ValueError(
            "capsule_optimizer and head_optimizer must be AdamW of one weight_decay and betas, and no other option"
        )
    return capsules


def _arguments(part: Mapping[str, Any] | None, kind: str) -> dict[str, Any] | None:
    """Arguments of a part that is given by its class path."""
    if part is None:
        return None
    if part["class_path"].rpartition(".")[2] != kind:
        raise ValueError(f"class_path={part['class_path']!r} is not carried over; leave it out, or use {kind}")
    return dict(part.get("init_args") or {})


def shared(options: argparse.Namespace) -> Run:
    """Make the training that both sides share, with what the command line has changed."""
    with (options.configs / f"{options.dataset}.yaml").open(encoding="utf-8") as file:
        run = recipe(options.dataset, yaml.safe_load(file))
    return replace(
        run,
        epochs=options.epochs or run.epochs,
        data_options={**run.data_options, "limit_train": options.limit},
        weight_decay=run.weight_decay if options.weight_decay is None else options.weight_decay,
        precision=options.precision or run.precision,
        accelerator=options.accelerator,
    )


def of_side(run: Run, side: str) -> Run:
    """Make of the shared training that of a side."""
    return replace(run, model={**run.model, "local": SIDES[side]})


def work(run: Run, side: str, options: argparse.Namespace, store: Store) -> None:
    """Search, then train all seeds with the best rate; what is finished is not run again.

    Args:
        run: What both sides share.
        side: Of `SIDES`.
        options: Of the command.
        store: Of finished runs.
    """
    run = of_side(run, side)
    for rate in options.search:
        one = replace(run, seed=options.search_seed, learning_rate=rate)
        fit = store.carry_out(one, options.root)
        print(
            f"{side}: learning rate {rate:g}: validation error {fit.validation_error:.2f} %, "
            f"{fit.cpu_seconds:.0f} s of CPU",
            flush=True,
        )
    best = best_rate_of(run, options, store.results())
    assert best is not None
    for seed in options.seeds:
        fit = store.carry_out(replace(run, seed=seed, learning_rate=best), options.root)
        print(f"{side}: learning rate {best:g}, seed {seed}: test error {fit.test_error:.2f} %", flush=True)


def best_rate_of(run: Run, options: argparse.Namespace, results: Mapping[str, Fit]) -> float | None:
    """Choose the learning rate of least validation error, of equal ones the smallest; None if one is missing."""
    errors: dict[float, float] = {}
    for rate in sorted(options.search):
        fit = results.get(replace(run, seed=options.search_seed, learning_rate=rate).key())
        if fit is None:
            return None
        errors[rate] = fit.validation_error
    return min(errors, key=lambda rate: errors[rate])


def report(run: Run, options: argparse.Namespace, store: Store) -> dict[str, float | str]:
    """Sum up what there is, print it, and keep it in ``summary.json``.

    Returns:
        Figures by name.
    """
    results, figures, trained = store.results(), dict[str, float | str](), dict[str, list[Fit]]()
    for side in SIDES:
        own = of_side(run, side)
        best = best_rate_of(own, options, results)
        wanted = [] if best is None else [replace(own, seed=seed, learning_rate=best) for seed in options.seeds]
        fits = [results[one.key()] for one in wanted if one.key() in results]
        if best is None or len(fits) < len(wanted):
            print(f"{side}: not finished, {len(fits)} of {len(options.seeds)} seeds")
            continue
        trained[side] = fits
        edge = len(options.search) > 1 and best in (min(options.search), max(options.search))
        figures |= _of_side(f"{options.dataset}_{side}", best, fits)
        print(
            f"{side}: test error {figures[f'{options.dataset}_{side}_error']:.2f} % over {len(fits)} seeds, "
            f"learning rate {best:g}{' (the edge of the search)' if edge else ''}"
        )
    if len(trained) == len(SIDES):
        name = f"{options.dataset}_local_over_twin"
        local, twin = ([one.correct for one in trained[side]] for side in SIDES)
        interval = paired_bootstrap(local, twin)
        figures |= {name: interval.ratio, f"{name}_low": interval.low, f"{name}_high": interval.high}
        print(f"local over twin: {interval}, 95 % paired bootstrap over images and seeds")
    options.out.mkdir(parents=True, exist_ok=True)
    summary = {"figures": figures, "recipe": run.options(), "seeds": options.seeds, "search": options.search}
    write_whole(options.out / f"summary_{options.dataset}.json", json.dumps(summary, indent=2) + "\n")
    return figures


def _of_side(name: str, rate: float, fits: list[Fit]) -> dict[str, float | str]:
    error, spread = mean_and_spread([one.test_error for one in fits])
    return {
        f"{name}_learning_rate": rate,
        f"{name}_error": error,
        **({} if spread is None else {f"{name}_error_spread": spread}),
        f"{name}_parameters": fits[0].parameters,
        f"{name}_multiply_adds_inference": fits[0].multiply_adds_inference,
        f"{name}_multiply_adds_training": fits[0].multiply_adds_training,
        f"{name}_cpu_seconds": mean_and_spread([one.cpu_seconds for one in fits])[0],
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "runs/gap")
    parser.add_argument("--dataset", choices=["cifar10", "mnist", "svhn"], default="cifar10")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="Folder of the recipes.")
    parser.add_argument("--side", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--search", nargs="+", type=float, default=list(RATES), help="Learning rates.")
    parser.add_argument("--search_seed", type=int, default=0)
    parser.add_argument("--weight_decay", type=float, help="By default the recipe's.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="By default the recipe's.")
    parser.add_argument("--limit", type=int, default=10_000, help="Training images.")
    parser.add_argument("--precision", help="By default the recipe's.")
    parser.add_argument("--report", action="store_true", help="Sum up what there is.")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print the ratio, and one line of JSON."""
    options = parse()
    prepare(options.threads)
    store, run = Store(options.out / "results.jsonl"), shared(options)
    for side in [] if options.report else options.side:
        work(run, side, options, store)
    device = "cuda" if options.accelerator in ("cuda", "gpu") else "cpu"
    conclude(report(run, options, store) | {"device": machine(device)}, BOUNDS)


if __name__ == "__main__":
    main()
