"""Which of the paper's claims hold: each judged by one rule, from what was measured."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from primenet_lightning.paper import (
    EPOCHS,
    PRIMENET_COST,
    RESNET50_COST,
    SPLITS,
    SUBSET,
    TEST_ERRORS,
    best_quoted,
)
from primenet_lightning.reproduction.report.measurements import (
    Measured,
    by_seed,
    difference,
    listed,
    measured,
    noise,
    paired,
    wilson,
    written,
)
from primenet_lightning.reproduction.results import Result, Results

Answer = Literal["confirmed", "not confirmed", "cannot be tested here"]

ONE_SCALE = ("one_scale_3", "one_scale_5", "one_scale_7")
TWINS = ("end_to_end_mean", "end_to_end_concatenate")


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: In a few words.
        where: In the paper.
        claimed: The paper's number.
        measured: Ours; empty where there is none.
        verdict: One of three.
        why: One sentence with the numbers, or two.
    """

    claim: str
    where: str
    claimed: str
    measured: str
    verdict: Answer
    why: str


class CannotBeTested(Exception):
    """A claim that these results say nothing about; the message says why."""


Judgement = tuple[bool, str, str]
"""Whether the claim holds, what was measured, and why."""


@dataclass(frozen=True)
class Rule:
    """How a claim is judged.

    Attributes:
        claim: In a few words.
        where: In the paper.
        claimed: The paper's number on a data set.
        judge: Raises `CannotBeTested`.
    """

    claim: str
    where: str
    claimed: Callable[[str], str]
    judge: Callable[[Results], Judgement]

    def __call__(self, results: Results) -> Verdict:
        """Judge."""
        answer: Answer
        try:
            holds, number, why = self.judge(results)
            answer = "confirmed" if holds else "not confirmed"
        except CannotBeTested as reason:
            answer, number, why = "cannot be tested here", "", _sentence(str(reason))
        return Verdict(self.claim, self.where, self.claimed(results.dataset), number, answer, why)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def judge(results: Results) -> list[Verdict]:
    """Judge all claims.

    Args:
        results: What was measured; any part may be missing.

    Returns:
        One verdict a claim, in the order of the paper's tables, figures and sections.
    """
    return [rule(results) for rule in RULES]


# What the rules share: each either finds its numbers or says what is missing


def _run(results: Results, part: str) -> list[Result]:
    if not (found := results.of(part)):
        raise CannotBeTested(f"part {part} was not run")
    return found


def _numbers(results: Results, part: str, field: str, *keys: str) -> dict[int, float]:
    _run(results, part)
    if not (found := by_seed(results, part, field, *keys)):
        raise CannotBeTested(f"part {part} has no {(keys or (field,))[-1].replace('_', ' ')}")
    return found


def _paired(results: Results, parts: Sequence[str], field: str, *keys: str) -> list[Measured]:
    """Numbers of several parts on the seeds that all of them have."""
    found = paired(*(_numbers(results, part, field, *keys) for part in parts))
    if not found:
        raise CannotBeTested(f"parts {listed(parts)} have no seed in common")
    for part, number in zip(parts, found, strict=True):
        if math.isnan(number.mean):
            raise CannotBeTested(f"part {part} has a {(keys or (field,))[-1].replace('_', ' ')} that is not finite")
    return found


def _have(results: Results, part: str, field: str, *keys: str) -> Measured:
    return _paired(results, (part,), field, *keys)[0]


def _errors(results: Results, *parts: str) -> list[Measured]:
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, of which no test error is given")
    return _paired(results, parts, "test_error")


def _same_images(results: Results, part: str, than: str = "prime") -> None:
    few, many = (max(result.images for result in _run(results, name)) for name in (part, than))
    if few < many:
        raise CannotBeTested(f"part {part} saw {few:,} training images, {than} {many:,}")


def _of_the_paper(results: Results) -> None:
    if results.dataset == "digits":
        raise CannotBeTested("digits is no data set of the paper, and its images are smaller than theirs")


def _whole(results: Results) -> None:
    """Refuse what is no training on the paper's data."""
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, and its test images are not SVHN's test split")
    if results.dataset not in SPLITS:
        raise CannotBeTested(f"{results.dataset} is no data set of the paper")
    for part in ("prime", "probe"):
        for result in results.of(part):
            if not result.all_images:
                all_there = SPLITS[results.dataset].train
                raise CannotBeTested(f"part {part} saw {result.images:,} of {all_there:,} training images")


def _on_what(results: Results, number: Measured) -> str:
    """Say on how many seeds a comparison is, and whether it is of trainings on fewer images than there are."""
    count, prime = len(number.values), _run(results, "prime")[0]
    images = "" if prime.all_images else f", all trained on {prime.images:,} images"
    return f"on {count} common seed{'s' if count > 1 else ''}{images}"


def _better(results: Results, ours: str, others: Mapping[str, str]) -> tuple[bool, Measured, str]:
    """Compare test errors: whether ours is lower than every other by more than the noise, and each in words."""
    for name in others:
        _same_images(results, name)
    error, *rivals = _errors(results, ours, *others)
    images = min(result.test_images for part in (ours, *others) for result in results.of(part))
    leads = [difference(rival, error).mean for rival in rivals]
    noises = [noise(error, rival, images) for rival in rivals]
    said = [
        f"{name} {rival.mean:.2f} % ({written(lead, '+.2f')} points, noise {chance:.2f})"
        for name, rival, lead, chance in zip(others.values(), rivals, leads, noises, strict=True)
    ]
    return all(lead > chance for lead, chance in zip(leads, noises, strict=True)), error, listed(said)


# Tables


def _protocol(results: Results) -> tuple[str, Measured]:
    """The part whose error is the paper's: of phase 2, or where that is missing of phase 1."""
    _run(results, "prime")
    part = "probe" if results.of("probe") else "prime"
    return part, _errors(results, part)[0]


def _mean_of(number: Measured) -> str:
    return f"mean of {len(number.values)} seeds" if len(number.values) > 1 else "one seed"


def _deviations(results: Results) -> str:
    done = (results.of("prime"), results.of("probe"))
    epochs = tuple(found[0].epochs if found else 0 for found in done)
    instead = f" instead of {EPOCHS[0]} + {EPOCHS[1]}" if epochs != EPOCHS else ""
    return f"{results.settings.size} size, {epochs[0]} + {epochs[1]} epochs{instead}"


def _test_error(results: Results) -> Judgement:
    _whole(results)
    part, error = _protocol(results)
    claimed, images = TEST_ERRORS[results.dataset], results.of(part)[0].test_images
    low, high = wilson(error.mean, images)
    lies = "lies" if low <= claimed <= high else "does not lie"
    beside = f"; phase 1 alone {_errors(results, 'prime', part)[0].mean:.2f} %" if part == "probe" else ""
    return (
        round(error.mean, 2) <= claimed,
        error.show(unit=" %"),
        f"Phase {2 if part == 'probe' else 1} has {error.mean:.2f} % ({_mean_of(error)}); its 95 % interval "
        f"on {images:,} test images is {low:.2f} to {high:.2f} %, in which {claimed} % {lies}{beside}; "
        f"{_deviations(results)}.",
    )


TO_BEAT = {"mnist": ("DT-RAM",), "cifar10": ("RNP", "SFP"), "svhn": ("ONE",)}
CLOSE = 0.1
"""Points within which an error counts as close: the paper calls 1.71 close to 1.63."""


def _baselines(results: Results) -> Judgement:
    _whole(results)
    part, error = _protocol(results)
    _, high = wilson(error.mean, results.of(part)[0].test_images)
    close = CLOSE if results.dataset == "svhn" else 0.0
    quoted = {model: best_quoted(results.dataset, model) for model in TO_BEAT[results.dataset]}
    ahead = {model: value for model, value in quoted.items() if high >= value + close}
    names = listed([f"{model}'s {value:.2f} %" for model, value in (ahead or quoted).items()])
    below = f"less than {close} points above" if close else "below"
    return (
        not ahead,
        error.show(unit=" %"),
        f"The 95 % interval of {error.mean:.2f} % after phase {2 if part == 'probe' else 1} "
        f"({_mean_of(error)}) ends at {high:.2f} %, {'not ' if ahead else ''}{below} {names}, as quoted; "
        f"{_deviations(results)}.",
    )


def _claimed_baselines(dataset: str) -> str:
    if dataset not in TO_BEAT:
        return ""
    names = " and ".join(f"{model} ({best_quoted(dataset, model):.2f} %)" for model in TO_BEAT[dataset])
    return f"{'close to' if dataset == 'svhn' else 'better than'} {names}"


TOLERANCE = 0.02
"""The paper's numbers have two figures."""


def _cost(results: Results) -> Judgement:
    _of_the_paper(results)
    _run(results, "prime")
    keys = ("parameters", "multiply_adds_inference")
    counted = [measured(results, "prime", "extra", "paper_size_cost", key) for key in keys]
    parameters, adds = (number.mean / 1e6 if number else math.nan for number in counted)
    if math.isnan(parameters + adds):
        raise CannotBeTested("the network of the authors' widths was not counted on these images")
    claimed = (PRIMENET_COST.parameters, PRIMENET_COST.multiply_adds)
    holds = all(abs(n - says) <= TOLERANCE * says for n, says in zip((parameters, adds), claimed, strict=True))
    has, takes = (f"{written(number, '.3g')} M" for number in (parameters, adds))
    return (
        holds,
        f"{has}, {takes}",
        f"The network of the authors' widths (paper size), counted without training, has {has} of parameters and takes "
        f"{takes} of multiply-adds an image by its cheapest route, {'both' if holds else 'not both'} within 2 % of "
        f"{claimed[0]} M and {claimed[1]} M (taken for the paper's FLOPs). The compact size was made to keep to the "
        "claimed cost, so that its own numbers prove nothing.",
    )


def _resnet50_cost(results: Results) -> Judgement:
    _of_the_paper(results)
    parameters = _have(results, "resnet50", "cost", "parameters").mean / 1e6
    adds = _have(results, "resnet50", "cost", "multiply_adds_inference").mean / 1e6
    pairs = ((parameters, RESNET50_COST.parameters), (adds, RESNET50_COST.multiply_adds))
    holds = all(abs(number - claimed) <= 0.05 * claimed for number, claimed in pairs)
    return (
        holds,
        f"{parameters:.1f} M, {adds:.0f} M",
        f"torchvision's ResNet-50 has {parameters:.1f} M parameters and {adds:.0f} M multiply-adds on these images, "
        f"{'both' if holds else 'not both'} within 5 % of {RESNET50_COST.parameters} M and "
        f"{RESNET50_COST.multiply_adds:.0f} M.",
    )


# Figures


def _losses_fall(results: Results) -> Judgement:
    rising = []
    for result in _run(results, "prime"):
        losses: dict[str, list[float]] = result.extra.get("losses") or {}
        curves = {name: values for name, values in losses.items() if name not in ("step", "total")}
        if not curves or min(map(len, curves.values())) < 2:
            raise CannotBeTested("part prime has no loss curves")
        for name, values in curves.items():
            tenth = max(1, len(values) // 10)
            # a loss that is not a number has not fallen
            if not statistics.fmean(values[-tenth:]) < statistics.fmean(values[:tenth]):
                rising.append(f"{name} (seed {result.seed})")
    count = len(results.of("prime"))
    if rising:
        return False, f"not of {', '.join(rising)}", f"The loss of {', '.join(rising)} ends no lower than it began."
    why = f"Of every capsule and the head, the last tenth of the loss curve lies below the first, {_seeds(count)}."
    return True, "all fall", why


def _seeds(count: int) -> str:
    return "with one seed" if count == 1 else f"with each of {count} seeds"


STARTS = "ours starts from random weights, the paper's from ImageNet's"
"""Networks of 50 layers."""


def _clusters(results: Results) -> Judgement:
    parts = ("prime", "resnet50")
    saw = {part: max(result.images for result in _run(results, part)) for part in parts}
    epochs, asked = min(result.epochs for result in results.of("resnet50")), int(RESNET50_COST.epochs)
    if saw["resnet50"] < saw["prime"]:
        raise CannotBeTested(
            f"ResNet-50 saw {saw['resnet50']:,} training images, PrimeNet {saw['prime']:,}; besides, {STARTS}"
        )
    if epochs < asked:
        raise CannotBeTested(f"ResNet-50 had {epochs} epochs instead of the paper's {asked}; besides, {STARTS}")
    ours, theirs = _paired(results, parts, "extra", "separation", "silhouette")
    lead, chance = difference(ours, theirs).mean, noise(ours, theirs, None)
    where = f"{ours.mean:.2f} for PrimeNet and {theirs.mean:.2f} for ResNet-50 (1 is best; {_on_what(results, ours)})"
    if lead > 0 and len(ours.values) == 1:
        raise CannotBeTested(
            f"the silhouette of the classes in feature space is {where}, but a single seed does not tell that from "
            f"chance; besides, {STARTS}"
        )
    return (
        lead > chance,
        f"{ours.show()} against {theirs.show()}",
        f"The silhouette of the classes in feature space is {where}, a difference of {written(lead, '+.2f')} with a "
        f"noise of {chance:.2f}; as for ResNet-50, {STARTS}.",
    )


WITHIN = 10
"""Epochs of phase 2: "fewer than 10"."""

ENOUGH = 20
"""Epochs of phase 2 that it takes to tell that nothing more is learned."""

LEAST_IMAGES = 3
"""Training images that 0.1 points of accuracy have to be."""


def _converges(results: Results) -> Judgement:
    taken = _have(results, "probe", "extra", "epochs_until_converged")
    epochs, images = (min(getattr(one, key) for one in results.of("probe")) for key in ("epochs", "images"))
    if images < 1000 * LEAST_IMAGES:
        raise CannotBeTested(
            f"0.1 points of accuracy are {images / 1000:.1f} of {images:,} training images, fewer than {LEAST_IMAGES}, "
            "so that single images decide when it is reached"
        )
    if epochs <= WITHIN:
        raise CannotBeTested(f"phase 2 had {epochs} epochs, too few to tell whether it goes on learning after {WITHIN}")
    most = max(taken.values)
    why = (
        f"phase 2 was within 0.1 points of its last training accuracy after at most {most:.0f} of {epochs} epochs "
        f"({_seeds(len(taken.values))})"
    )
    if most < WITHIN and epochs < ENOUGH:
        raise CannotBeTested(f"{why}, and it takes {ENOUGH} epochs to tell that it does not go on learning")
    return most < WITHIN, taken.show(".1f", unit=" epochs"), _sentence(why)


def head_start(results: Results) -> str:
    """Say what figure 7 compares.

    Args:
        results: What has been measured.

    Returns:
        Half a sentence, without a full stop.
    """
    prime = results.of("prime")
    epochs = prime[0].epochs if prime else results.settings.epochs
    return (
        f"phase 2 starts on features that phase 1 trained for {epochs} epoch{'s' if epochs > 1 else ''}, the nets of "
        "one scale start from nothing (the paper's comparison)"
    )


def _above_one_scale(results: Results) -> Judgement:
    parts = ("probe", *ONE_SCALE)
    for part in parts:
        _run(results, part)
    for part in ONE_SCALE:
        _same_images(results, part, "probe")
    curves = [{one.seed: one.curves.get("train_accuracy", []) for one in results.of(part)} for part in parts]
    for part, found in zip(parts, curves, strict=True):
        if not all(found.values()):
            raise CannotBeTested(f"part {part} has no curve of its training accuracy")
    early = min(WITHIN, *(len(curve) for found in curves for curve in found.values()))
    numbers = [paired(*({seed: curve[at] for seed, curve in one.items()} for one in curves)) for at in (early - 1, -1)]
    if not numbers[0]:
        raise CannotBeTested(f"parts {listed(parts)} have no seed in common")
    images = min(result.images for result in results.of("probe"))
    (holds, after, said), (holds_too, last, said_too) = (_ahead(found, images) for found in numbers)
    return (
        holds and holds_too,
        f"{after:.2f} %, at the end {last:.2f} %",
        f"After {early} epochs ({_on_what(results, numbers[0][0])}) phase 2 has {after:.2f} % of the training "
        f"images right, {said}, and at the end {last:.2f} %, {said_too}. This is no even start: {head_start(results)}.",
    )


def _ahead(accuracies: Sequence[Measured], images: int) -> tuple[bool, float, str]:
    """Whether the first is above all others by more than the noise, what it is, and how it stands to the closest."""
    ours, *others = accuracies
    leads = [(difference(ours, other).mean, noise(ours, other, images)) for other in others]
    lead, chance = min(leads, key=lambda both: both[0] - both[1])
    return (
        all(ahead > by_chance for ahead, by_chance in leads),
        ours.mean,
        f"{abs(lead):.2f} points {'below' if lead < 0 else 'above'} the closest net of one scale (noise {chance:.2f})",
    )


# Sections

LEAST_SHARE = 0.05
"""Of the batches of the last epoch; a capsule routed less often does not count as in use."""


def _adapts(results: Results) -> Judgement:
    most = []  # each seed's second largest share
    for result in _run(results, "prime"):
        shares = sorted((result.extra.get("shares") or {}).values(), reverse=True)
        if len(shares) < 2:
            raise CannotBeTested("part prime has no shares of its routing")
        most.append(shares[1])
    holds = min(most) >= LEAST_SHARE
    seconds = ", ".join(f"{100 * share:.0f} %" for share in most)
    return (
        holds,
        seconds,
        f"In the last epoch the second most routed capsule got {seconds} of the batches ({_seeds(len(most))}); "
        f"at least {100 * LEAST_SHARE:.0f} % is asked for.",
    )


WITHOUT = {
    "local_fixed": "always the last (largest) scale",
    "local_random": "a random scale",
    "local_mean": "maps averaged",
    "local_concatenate": "maps concatenated",
}
"""Local learning without the selection; the first two have to be there."""


def _argmin_helps(results: Results) -> Judgement:
    others = {part: name for part, name in WITHOUT.items() if results.of(part) or part in list(WITHOUT)[:2]}
    holds, ours, said = _better(results, "prime", others)
    return (
        holds,
        ours.show(unit=" %"),
        f"Phase 1 has {ours.mean:.2f} % test error routed by the least loss; instead of that {said}; "
        f"{_on_what(results, ours)}.",
    )


RETAINED = 1.05
"""How many times the end-to-end error still counts as the same performance."""


def _retains(results: Results) -> Judgement:
    run = [name for name in TWINS if results.of(name)] or [TWINS[0]]
    for name in run:
        _same_images(results, name)
    ours, *twins = _errors(results, "prime", *run)
    best, name = min(zip(twins, run, strict=True), key=lambda twin: twin[0].mean)
    how = {"end_to_end_mean": "maps averaged", "end_to_end_concatenate": "maps concatenated"}[name]
    missing = "" if len(run) == len(TWINS) else "; the other twin was not run"
    images = min(result.test_images for part in ("prime", name) for result in results.of(part))
    above, chance = difference(ours, best, RETAINED).mean, noise(ours, best, images, RETAINED)
    why = (
        f"phase 1 has {ours.mean:.2f} % test error and the best end-to-end twin ({how}) {best.mean:.2f} %, "
        f"{abs(above):.2f} points {'above' if above > 0 else 'below'} {RETAINED} times that, up to which it counts as "
        f"retained (noise {chance:.2f}; {_on_what(results, ours)}{missing})"
    )
    if abs(above) <= chance:
        raise CannotBeTested(f"{why}, so that chance decides")
    return above <= 0, ours.show(unit=" %"), _sentence(why)


def _saves(results: Results) -> Judgement:
    ours, every = _paired(results, ("prime", "end_to_end_concatenate"), "cost", "multiply_adds_inference")
    names = {"prime": "it", "end_to_end_mean": "the twin with averaged maps", "one_scale_7": "the one-scale net of 7x7"}
    training = {part: measured(results, part, "cost", "multiply_adds_training") for part in names}
    takes = listed([f"{names[part]} takes {_millions(found)}" for part, found in training.items() if found])
    return (
        ours.mean < every.mean,
        _millions(ours),
        f"At inference the routed network takes {_millions(ours)} of multiply-adds an image, the one with all "
        f"capsules' maps concatenated {_millions(every)} ({_on_what(results, ours)}). Training computes all capsules"
        f"{': ' if takes else ''}{takes}.",
    )


def _millions(number: Measured) -> str:
    return f"{written(number.mean / 1e6, '.3g')} M"


def _above_plain(results: Results) -> Judgement:
    holds, ours, said = _better(results, "prime", {part: f"{part[-1]}x{part[-1]}" for part in ONE_SCALE})
    return (
        holds,
        ours.show(unit=" %"),
        f"Phase 1 has {ours.mean:.2f} % test error, the nets of one scale {said}; {_on_what(results, ours)}.",
    )


def _always(text: str) -> Callable[[str], str]:
    return lambda dataset: text


def _claimed_error(dataset: str) -> str:
    return f"{TEST_ERRORS[dataset]} %" if dataset in TEST_ERRORS else ""


RULES = (
    Rule("PrimeNet's test error", "Table 2", _claimed_error, _test_error),
    Rule("PrimeNet against the quoted baselines", "Table 2, section 4.3", _claimed_baselines, _baselines),
    Rule("PrimeNet's parameters and FLOPs", "Table 3", _always("0.41 M, 2.7 M"), _cost),
    Rule("ResNet-50's parameters and FLOPs", "Table 3", _always("23.6 M, 409 M"), _resnet50_cost),
    Rule("Every capsule's loss falls", "Figure 5", _always("all fall"), _losses_fall),
    Rule("Clearer clusters than ResNet-50's", "Figure 6", _always("clearer margins"), _clusters),
    Rule("Phase 2 converges fast", "Figure 7, section 5.2", _always("fewer than 10 epochs"), _converges),
    Rule("Phase 2 trains better than one-scale nets", "Figure 7", _always("above all three"), _above_one_scale),
    Rule("The selection adapts", "Section 3.3", _always("more than one scale is used"), _adapts),
    Rule("Selection by least loss helps", "Sections 3.3, 5.1", _always("better than without"), _argmin_helps),
    Rule("Local learning retains performance", "Abstract, section 6", _always("no loss"), _retains),
    Rule("Soft pruning saves cost", "Section 3.3", _always("fewer operations"), _saves),
    Rule("Several scales beat one", "Section 5.2", _always("better than one scale"), _above_plain),
)
"""All claims with their rules."""
