"""Results of a reproduction that nobody ran: small, and plausible enough to look at."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from primenet_lightning.reproduction._results import Result, Results, Settings

SETTINGS = Settings("mnist", "full", "compact", 3, 30, 15, 200, 32, "32-true")
COST: dict[str, float] = dict(parameters=141_344, multiply_adds_inference=2_602_112, multiply_adds_training=10_663_232)
COST |= dict(activation_bytes=30 * 2**20)
PAPER_SIZE: dict[str, float] = dict(parameters=409_000, multiply_adds_inference=2_702_000)
DATA: dict[str, Any] = dict(validation_images=6_000, in_shape=[1, 28, 28], classes=10)
CONDITIONS: dict[str, Any] = dict(device="CPU, 2 threads", versions={"torch": "9.9"})
ROUTINGS = {"majority": 0.80, "fixed k3": 5.0, "fixed k5": 3.0, "fixed k7": 0.8, "random": 3.1, "min_entropy": 2.0}
ROUTINGS |= {"vote": 1.1, "mean of heads": 1.3, "oracle per batch": 0.9, "oracle per sample": 1.4}
ROUTINGS |= {"oracle per batch, own verdict": 0.7, "oracle per sample, own verdict": 0.4}


def curve(start: float, end: float, length: int) -> list[float]:
    return [end + (start - end) * 0.8**i for i in range(length)]


def falling(end: float, points: int = 60) -> list[float]:
    noise = np.random.default_rng(0).normal(0, 0.03, points)
    return [float(value) for value in np.array(curve(2.3, end, points)) * np.exp(noise)]


def losses() -> dict[str, list[int] | list[float]]:
    by_name = {name: falling(end) for name, end in (("k3", 0.2), ("k5", 0.1), ("k7", 0.05), ("head", 0.03))}
    total = [a + b for a, b in zip(by_name["k7"], by_name["head"], strict=True)]
    return {"step": list(range(135, 135 * 61, 135)), **by_name, "total": total}


def result(name: str, seed: int, error: float, epochs: int = 30, accuracy: float = 99.0, **extra: Any) -> Result:
    curves = dict(train_accuracy=curve(85, accuracy, epochs), train_loss=curve(1.0, (100 - accuracy) / 50, epochs))
    curves["validation_accuracy"] = curve(84, accuracy - 0.5, epochs)
    recipe = "Adam 0.0002, betas 0.99, 0.999, batch 200" if not name.startswith("probe") else "Adam 0.001, batch 32"
    return Result(
        name,
        seed,
        epochs,
        54_000,
        True,
        recipe,
        test_error=error + 0.02 * seed,
        validation_error=error + 0.1,
        test_images=10_000,
        curves=curves,
        cost=dict(COST),
        seconds_per_epoch=21.5,
        seconds=21.5 * epochs,
        extra=extra,
        **DATA,
        **CONDITIONS,
    )


def extras(seed: int) -> dict[str, Any]:
    """Of ``prime``."""
    separation = dict(silhouette=0.31 + 0.01 * seed, neighbour_accuracy=0.973)
    shares = dict(shares=dict(k3=0.02, k5=0.2, k7=0.78), shares_all=dict(k3=0.1, k5=0.3, k7=0.6))
    routings = {name: error + 0.02 * seed for name, error in ROUTINGS.items()}
    return dict(routings=routings, losses=losses(), separation=separation, paper_size_cost=dict(PAPER_SIZE), **shares)


ERRORS = dict(end_to_end_mean=0.7, end_to_end_concatenate=0.65, local_fixed=1.0, local_random=1.9, local_mean=0.9)
ERRORS |= dict(local_concatenate=0.75, no_projection=1.2, four_scales=0.85, one_scale_3=1.3, one_scale_5=1.0)
ERRORS |= dict(one_scale_7=0.95, resnet20=0.6)


def parts(seeds: int = 3) -> dict[str, list[Result]]:
    """All parts by name."""
    found: dict[str, list[Result]] = {}
    for seed in range(seeds):
        phase_2: dict[str, Any] = dict(
            epochs_until_converged=6, epochs_until_converged_validation=4, phase1_test_error=0.8
        )
        phase_2 |= dict(logistic_test_error=0.77, features=4704)
        made = [result("prime", seed, 0.8, **extras(seed)), result("probe", seed, 0.75, 15, 99.7, **phase_2)]
        made += [result(name, seed, error, accuracy=98.9 - error) for name, error in ERRORS.items()]
        made.append(result("probe_routed", seed, 0.9, 15, **phase_2))
        resnet = result("resnet50", seed, 0.9, 50, separation=dict(silhouette=0.18, neighbour_accuracy=0.955))
        made.append(replace(resnet, cost=COST | dict(parameters=23_520_842, multiply_adds_inference=83_000_000)))
        made.append(result("sfp", seed, 0.7, rate=0.3, multiply_adds_pruned=2_000_000))
        exits = [dict(threshold=t, error=2.0 - t, multiply_adds=1e6 * (1 + t)) for t in (0.5, 0.9, 1.0)]
        made.append(result("multi_exit", seed, 0.9, exits=exits))
        for one in made:
            found.setdefault(one.name, []).append(one)
    return found


def arrays(colour: bool = False, rows: int = 3, points: int = 200) -> dict[str, dict[str, Any]]:
    """Of ``prime`` and ``resnet50``."""
    random = np.random.default_rng(0)
    labels = np.arange(points) % 10
    centres = random.normal(size=(10, 2)) * 30
    ours, theirs = (
        (centres[labels] + spread * random.normal(size=(points, 2))).astype(np.float32) for spread in (4, 12)
    )
    pixels = random.integers(0, 256, (rows, 28, 28, 3) if colour else (rows, 28, 28)).astype(np.uint8)
    shown = np.arange(rows) % 10
    verdicts = np.stack([shown, (shown + 1) % 10, shown], axis=1)
    prime: dict[str, Any] = dict(
        pixels=pixels, labels=shown, verdicts=verdicts, head_verdicts=shown, embedding_labels=labels
    )
    prime |= dict(maps=random.normal(size=(rows, 3, 4, 14, 14)).astype(np.float32), embedding=ours)
    prime |= dict(losses=random.uniform(0, 2, (rows, 3)), routed=np.full(rows, 2), least_loss=np.arange(rows) % 3)
    prime |= dict(capsule_names=np.array(["k3", "k5", "k7"]), class_names=np.array(list("0123456789")))
    return dict(prime=prime, resnet50=dict(embedding=theirs, embedding_labels=labels))


def made_up(
    dataset: str = "mnist",
    without: Collection[str] = (),
    seeds: int = 3,
    change: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Results:
    """All results; ``change`` maps a part to what is replaced in each of its results."""
    found = {name: results for name, results in parts(seeds).items() if name not in without}
    for name, values in (change or {}).items():
        found[name] = [replace(one, **values) for one in found[name]]
    kept = {name: value for name, value in arrays().items() if name not in without}
    return Results(replace(SETTINGS, dataset=dataset, seeds=seeds, **settings), found, kept)
