"""The claims of the paper's figures, and by what they are judged."""

import statistics
from collections.abc import Sequence

from primenet_lightning.paper import RESNET50_COST
from primenet_lightning.reproduction._results import ONE_SCALE, Result, Results
from primenet_lightning.reproduction.report import _finding as find
from primenet_lightning.reproduction.report._measurements import Measured, difference, noise
from primenet_lightning.reproduction.report._remarks import head_start
from primenet_lightning.reproduction.report._rule import CannotBeTested, Judgement, Rule
from primenet_lightning.reproduction.report._wording import listed

WITHIN = 10
"""Epochs of phase 2: "fewer than 10"."""

ENOUGH = 20
"""Epochs of phase 2 that it takes to tell that nothing more is learned."""

LEAST_IMAGES = 3
"""Training images that 0.1 points of accuracy have to be."""

STARTS = "ours starts from random weights, the paper's from ImageNet's"
"""Networks of 50 layers."""


def _losses_fall(results: Results) -> Judgement:
    rising = []
    for result in find.run(results, "prime"):
        for name, values in _curves_of(result).items():
            tenth = max(1, len(values) // 10)
            # a loss that is not a number has not fallen
            if not statistics.fmean(values[-tenth:]) < statistics.fmean(values[:tenth]):
                rising.append(f"{name} (seed {result.seed})")
    facts = {"rising": rising, "count": len(results.of("prime"))}
    return Judgement(not rising, f"not of {', '.join(rising)}" if rising else "all fall", facts)


def _curves_of(result: Result) -> dict[str, list[float]]:
    """Losses of the capsules and of the head."""
    losses: dict[str, list[float]] = dict(result.extra.get("losses") or {})
    losses.pop("step", None)
    losses.pop("total", None)
    if not losses or min(map(len, losses.values())) < 2:
        raise CannotBeTested("part prime has no loss curves")
    return losses


def _clusters(results: Results) -> Judgement:
    ours_saw = max(result.images for result in find.run(results, "prime"))
    theirs_saw = max(result.images for result in find.run(results, "resnet50"))
    epochs, asked = min(result.epochs for result in results.of("resnet50")), int(RESNET50_COST.epochs)
    if theirs_saw < ours_saw:
        raise CannotBeTested(f"ResNet-50 saw {theirs_saw:,} training images, PrimeNet {ours_saw:,}; besides, {STARTS}")
    if epochs < asked:
        raise CannotBeTested(f"ResNet-50 had {epochs} epochs instead of the paper's {asked}; besides, {STARTS}")
    ours, theirs = find.numbers(results, ("prime", "resnet50"), "extra", "separation", "silhouette")
    lead, chance = difference(ours, theirs).mean, noise(ours, theirs, None)
    facts = {"ours": ours, "theirs": theirs, "lead": lead, "chance": chance, "starts": STARTS}
    facts["prime"] = results.of("prime")[0]
    if lead > 0 and len(ours.values) == 1:  # a single seed has no noise to compare with
        return Judgement(None, "", facts)
    return Judgement(lead > chance, f"{ours.show()} against {theirs.show()}", facts)


def _converges(results: Results) -> Judgement:
    (taken,) = find.numbers(results, ("probe",), "extra", "epochs_until_converged")
    epochs = min(result.epochs for result in results.of("probe"))
    images = min(result.images for result in results.of("probe"))
    if images < 1000 * LEAST_IMAGES:
        raise CannotBeTested(
            f"0.1 points of accuracy are {images / 1000:.1f} of {images:,} training images, fewer than {LEAST_IMAGES}, "
            "so that single images decide when it is reached"
        )
    if epochs <= WITHIN:
        raise CannotBeTested(f"phase 2 had {epochs} epochs, too few to tell whether it goes on learning after {WITHIN}")
    most = max(taken.values)
    facts = {"most": most, "epochs": epochs, "count": len(taken.values), "enough": ENOUGH}
    if most < WITHIN and epochs < ENOUGH:
        return Judgement(None, "", facts)
    return Judgement(most < WITHIN, taken.show(".1f", unit=" epochs"), facts)


def _above_one_scale(results: Results) -> Judgement:
    parts = ("probe", *ONE_SCALE)
    for part in parts:
        find.run(results, part)
    for part in ONE_SCALE:
        find.refuse_fewer_images(results, part, "probe")
    early = min([WITHIN, *(_shortest(results, part) for part in parts)])
    after, end = _accuracies(results, parts, early - 1), _accuracies(results, parts, -1)
    facts = {"early": early, "prime": find.run(results, "prime")[0], "head_start": head_start(results)}
    images = min(result.images for result in results.of("probe"))
    holds = True
    for name, (ours, *others) in (("after", after), ("end", end)):
        leads = [(difference(ours, other).mean, noise(ours, other, images)) for other in others]
        lead, chance = min(leads, key=lambda pair: pair[0] - pair[1])  # of the closest
        holds = holds and all(ahead > by_chance for ahead, by_chance in leads)
        facts[name] = {"ours": ours, "lead": lead, "chance": chance}
    return Judgement(holds, f"{after[0].mean:.2f} %, at the end {end[0].mean:.2f} %", facts)


def _shortest(results: Results, part: str) -> int:
    """Epochs of the shortest curve of a part's training accuracy."""
    lengths = [len(result.curves.get("train_accuracy", ())) for result in results.of(part)]
    if not all(lengths):
        raise CannotBeTested(f"part {part} has no curve of its training accuracy")
    return min(lengths)


def _accuracies(results: Results, parts: Sequence[str], epoch: int) -> list[Measured]:
    """Training accuracies after an epoch, on the seeds that all parts have."""
    by_seed = []
    for part in parts:
        by_seed.append({result.seed: result.curves["train_accuracy"][epoch] for result in results.of(part)})
    numbers = find.paired(*by_seed)
    if not numbers:
        raise CannotBeTested(f"parts {listed(parts)} have no seed in common")
    return numbers


FIGURE_RULES = (
    Rule("Every capsule's loss falls", "Figure 5", "all fall", _losses_fall, "losses_fall"),
    Rule("Clearer clusters than ResNet-50's", "Figure 6", "clearer margins", _clusters, "clusters"),
    Rule("Phase 2 converges fast", "Figure 7, section 5.2", "fewer than 10 epochs", _converges, "converges"),
    Rule(
        "Phase 2 trains better than one-scale nets", "Figure 7", "above all three", _above_one_scale, "above_one_scale"
    ),
)
