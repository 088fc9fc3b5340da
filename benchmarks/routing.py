"""Routers, local losses and local heads compared in a stack: error, cost, and how often the route changed late.

    python benchmarks/routing.py [--root DIR] [--out DIR] [--full] [--only AXIS ...] [--shard I/N] [--report]

Three blocks of three capsules (3, 5, 7), 16 channels each, 2x2 pools between them, on 5,000 images of MNIST and of
CIFAR-10, three seeds, AdamW with a one-cycle schedule. One thing changes at a time, around all maps concatenated,
cross-entropy, and heads of the layers that follow; ``--full`` runs every router with every loss and every head. Beside
them stand the end-to-end twins, the same network by backprop: with all maps concatenated, which ratios are to, and with
their mean. All have the same learning rate; `benchmarks/gap.py` compares two that are tuned.

A run takes about a minute of one core, so that two cores finish one in half a minute: two processes share the work with
``--shard 1/2`` and ``--shard 2/2`` in the same folder, each with ``--threads 1``. Finished runs are kept in
``results.jsonl`` and not run again. ``--report`` runs nothing. At the end ``summary.json`` and ``table.md`` say what
there is, and the last line printed is one JSON object.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from fits import Run, add_arguments, prepare, shard
from intervals import Interval, mean_and_spread, paired_bootstrap
from kept_fits import Fit, Store
from timing import conclude, machine

from primenet_lightning.files import write_whole
from primenet_lightning.nn.classifiers import LocalClassifier
from primenet_lightning.nn.losses import LocalLossKind

DEPTH = 3
NETWORK: dict[str, Any] = {
    "depth": DEPTH,
    "kernel_sizes": (3, 5, 7),
    "pool_every": 1,
    "reduce_channels": 16,
    "channels": 16,
    "projection_channels": 8,
    "head_channels": 32,
    "stride": 1,
}
ROUTERS: dict[str, dict[str, Any]] = {
    "least_loss": {"router": "least_loss"},
    "settle": {"router": "settle"},
    "commit": {"router": "commit"},
    "concatenate": {"router": "concatenate"},
    "mean": {"router": "mean"},
    "gate_sample": {"router": "gate", "router_options": {"per": "sample"}},
    "gate_batch": {"router": "gate", "router_options": {"per": "batch"}},
}
AXES: dict[str, tuple[str, ...]] = {
    "router": tuple(ROUTERS),
    "loss": get_args(LocalLossKind),
    "head": get_args(LocalClassifier),
}
BASE = {"router": "concatenate", "loss": "cross_entropy", "head": "layers"}
TWINS = ("concatenate", "mean")
TWIN = "end to end, concatenate"
DATASETS = ("mnist", "cifar10")
EPOCHS = 5
BATCH = 100
VALIDATION = 0.02
"""Held out; nothing is chosen on it here, and less of it is sooner seen."""


def configurations(full: bool, axes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """List what is compared.

    Args:
        full: Every router with every loss and every head, or one change at a time.
        axes: What changes, of `AXES`.

    Returns:
        Router, loss, head, and whether it is local, by the configuration's name; the base and the twins come first.
    """
    chosen = [BASE]
    if full:
        values = {axis: AXES[axis] if axis in axes else (BASE[axis],) for axis in AXES}
        chosen += [
            {"router": router, "loss": loss, "head": head}
            for router in values["router"]
            for loss in values["loss"]
            for head in values["head"]
        ]
    else:
        chosen += [BASE | {axis: value} for axis in axes for value in AXES[axis]]
    variants: dict[str, dict[str, Any]] = {", ".join(BASE.values()): BASE | {"local": True}}
    # a twin has no use for loss and head, but with the same head it starts from the same weights
    variants |= {f"end to end, {router}": BASE | {"router": router, "local": False} for router in TWINS}
    return variants | {", ".join(one.values()): one | {"local": True} for one in chosen}


def runs_of(options: argparse.Namespace) -> Iterator[tuple[str, str, Run]]:
    """List all runs, the first seed of everything on both data sets before the second.

    Args:
        options: Of the command.

    Yields:
        Data set, name of the configuration, and the run.
    """
    for seed in options.seeds:
        for place, (name, parts) in enumerate(configurations(options.full, options.only).items()):
            # back and forth, or of two shares of the work each would be one data set's
            for data in options.datasets[:: -1 if place % 2 else 1]:
                yield data, name, run_of(data, parts, options, seed)


def run_of(data: str, parts: Mapping[str, Any], options: argparse.Namespace, seed: int) -> Run:
    """Make one run of a configuration."""
    model = NETWORK | ROUTERS[parts["router"]] | {"local_loss": parts["loss"], "local_classifier": parts["head"]}
    if parts["router"] == "commit":
        # block by block, the last one after a third of the training
        model["router_options"] = {"warm_up": max(1, options.epochs * options.limit // BATCH // 3 // DEPTH)}
    return Run(
        data,
        model | {"local": parts["local"]},
        options.epochs,
        seed,
        {"batch_size": BATCH, "limit_train": options.limit, "validation_fraction": VALIDATION},
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        precision=options.precision,
        accelerator=options.accelerator,
    )


def summarize(data: str, name: str, seeds: Mapping[int, Fit], twin: Mapping[int, Fit]) -> dict[str, Any]:
    """Sum up a configuration on a data set.

    Args:
        data: The data set.
        name: The configuration.
        seeds: Results by seed.
        twin: Those of the twin; the ratio is over the seeds that both have.

    Returns:
        What ``summary.json`` holds; spreads are sample standard deviations over the seeds.
    """
    fits = list(seeds.values())
    error, error_spread = mean_and_spread([one.test_error for one in fits])
    changes = [one.changed_late for one in fits if one.changed_late is not None]
    phases = [phase for one in fits for phase in one.phases]
    committed = [one for one in fits if len(one.phases) > 1]
    return {
        "data": data,
        "configuration": name,
        "seeds": sorted(seeds),
        "test_error": error,
        "test_error_spread": error_spread,
        "validation_error": mean_and_spread([one.validation_error for one in fits])[0],
        "over_twin": _over(seeds, twin),
        "parameters": mean_and_spread([one.parameters for one in fits])[0],
        "multiply_adds_inference": mean_and_spread([one.multiply_adds_inference for one in fits])[0],
        "multiply_adds_training": mean_and_spread([one.multiply_adds_training for one in fits])[0],
        "changed_late": mean_and_spread(changes)[0] if changes else None,
        "cpu_seconds": mean_and_spread([one.cpu_seconds for one in fits])[0],
        "milliseconds_a_batch": 1000 * sum(p.cpu_seconds for p in phases) / max(1, sum(p.batches for p in phases)),
        "batch_time_after_commit": mean_and_spread([_after_commit(one) for one in committed])[0] if committed else None,
        "diverged": sum(one.diverged is not None for one in fits),
    }


def _over(seeds: Mapping[int, Fit], twin: Mapping[int, Fit]) -> Interval | None:
    common = sorted(seeds.keys() & twin.keys())
    if not common or not any(twin[seed].test_error for seed in common):
        return None
    return paired_bootstrap([seeds[seed].correct for seed in common], [twin[seed].correct for seed in common])


def _after_commit(one: Fit) -> float:
    """CPU seconds of a batch once all blocks have committed, over those of one before the first has."""
    first, last = one.phases[0], one.phases[-1]
    return (last.cpu_seconds / last.batches) / (first.cpu_seconds / first.batches)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the summary as Markdown, one table a data set."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [
            f"## {data}",
            "",
            "| configuration | seeds | test error, % | over the twin (95 %) | multiply-adds at inference, M "
            "| in training, M | changed late, % | CPU, ms a batch |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in rows if row["data"] == data]
        lines.append("")
    lines.append(
        f'The twin is "{TWIN}". "-" under "changed late": more than one capsule\'s map goes on, or none is routed.'
    )
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    spread, over, changed = row["test_error_spread"], row["over_twin"], row["changed_late"]
    cells = [
        row["configuration"] + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
        len(row["seeds"]),
        f"{row['test_error']:.2f}" + ("" if spread is None else f" ± {spread:.2f}"),
        "-" if over is None else str(over),
        f"{row['multiply_adds_inference'] / 1e6:.2f}",
        f"{row['multiply_adds_training'] / 1e6:.2f}",
        "-" if changed is None else f"{100 * changed:.1f}",
        f"{row['milliseconds_a_batch']:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def report(options: argparse.Namespace, store: Store, out: Path) -> dict[str, float | str]:
    """Sum up all that there is of the plan into ``summary.json`` and ``table.md``, and print the table.

    Returns:
        Figures by name.
    """
    stored = store.results()
    results: dict[tuple[str, str], dict[int, Fit]] = {}
    for data, name, run in runs_of(options):
        if (fit := stored.get(run.key())) is not None:
            results.setdefault((data, name), {})[run.seed] = fit
    rows = [summarize(data, name, seeds, results.get((data, TWIN), {})) for (data, name), seeds in results.items()]
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "summary.json", json.dumps(rows, indent=2) + "\n")
    write_whole(out / "table.md", table(rows))
    print(table(rows))
    figures: dict[str, float | str] = {}
    for row in rows:
        name = f"{row['data']}_{row['configuration'].replace(', ', '_').replace(' ', '_')}"
        figures[f"{name}_error"] = row["test_error"]
        if row["over_twin"] is not None:
            figures[f"{name}_over_twin"] = row["over_twin"].ratio
        if row["batch_time_after_commit"] is not None:
            figures[f"{name}_batch_time_after_over_before"] = row["batch_time_after_commit"]
    return figures


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "runs/routing")
    parser.add_argument("--full", action="store_true", help="Every router with every loss and every head.")
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES), help="What is to change.")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--limit", type=int, default=5_000, help="Training images.")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--weight_decay", type=float, default=1e-2)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--shard", default="1/1", help="I/N: this process's share of the runs.")
    parser.add_argument("--report", action="store_true", help="Sum up what there is.")
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print the table, and one line of JSON."""
    options = parse()
    prepare(options.threads)
    store = Store(options.out / "results.jsonl")
    plan = [] if options.report else list(shard(list(runs_of(options)), options.shard))
    for number, (data, name, run) in enumerate(plan, 1):
        result = store.carry_out(run, options.root)
        print(
            f"{number}/{len(plan)} {data}: {name}, seed {run.seed}: {result.test_error:.2f} %, "
            f"{result.cpu_seconds:.0f} s of CPU",
            flush=True,
        )
    device = "cuda" if options.accelerator in ("cuda", "gpu") else "cpu"
    conclude(report(options, store, options.out) | {"device": machine(device)}, [])


if __name__ == "__main__":
    main()
