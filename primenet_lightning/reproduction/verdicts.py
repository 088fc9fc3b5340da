"""Which of the paper's claims hold: each judged by one rule, from what was measured."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from primenet_lightning.reproduction.claims import (
    EPOCHS,
    PRIMENET_COST,
    RESNET50_COST,
    SPLITS,
    SUBSET,
    TEST_ERRORS,
    best_quoted,
)
from primenet_lightning.reproduction.results import Result, Results

Answer = Literal["confirmed", "not confirmed", "cannot be tested here"]

ONE_SCALE = ("one_scale_3", "one_scale_5", "one_scale_7")
TWINS = ("end_to_end_mean", "end_to_end_concatenate")
ERRORS = ("test_error", "validation_error", "routings", "logistic_test_error", "phase1_test_error", "exits")
"""Fields of a result that say how many images are told wrongly."""


@dataclass(frozen=True)
class Measured:
    """One number, measured with several seeds.

    Attributes:
        values: One a seed, by seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds; not a number where a seed's is none."""
        return statistics.fmean(self.values) if self._finite else math.nan

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 and self._finite else None

    @property
    def _finite(self) -> bool:
        return all(math.isfinite(value) for value in self.values)

    def show(self, form: str = ".2f", scale: float = 1.0, unit: str = "") -> str:
        """Write it: mean, spread if there is one, and the number of seeds.

        Args:
            form: Of mean and spread.
            scale: What both are divided by.
            unit: Put behind them.

        Example:
            >>> Measured((1.0, 2.0, 3.0)).show(unit=" %"), Measured((7e6,)).show(".1f", 1e6)
            ('2.00 ± 1.00 % (3)', '7.0 (1)')
        """
        if not self._finite:
            return f"not finite ({len(self.values)})"
        spread = "" if self.spread is None else f" ± {written(self.spread / scale, form.replace('+', ''))}"
        return f"{written(self.mean / scale, form)}{spread}{unit} ({len(self.values)})"


def written(value: float, form: str) -> str:
    """Format a number, without the powers of ten that ``".3g"`` has for large ones, and without a negative zero.

    Example:
        >>> written(1234.5, ".3g"), written(2.602, ".3g"), written(-0.001, "+.2f")
        ('1,234', '2.6', '+0.00')
    """
    text = format(value, ",.0f" if form == ".3g" and abs(value) >= 100 else form)
    if text.startswith("-") and not text.strip("-0."):
        text = format(0.0, form)
    return text


def by_seed(results: Results, part: str, field: str, *keys: str) -> dict[int, float]:
    """Look a number up in all results of a part.

    Args:
        results: All results.
        part: Name of the part.
        field: Of `Result`.
        *keys: Where the field is a mapping: the way to the number.

    Returns:
        By seed, without those that have no such number. Errors on the subset of SVHN are never given.

    Example:
        ``by_seed(results, "prime", "extra", "routings", "vote")``
    """
    if results.dataset == SUBSET and not {field, *keys}.isdisjoint(ERRORS):
        return {}
    found = {}
    for result in results.of(part):
        value: Any = getattr(result, field)
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            found[result.seed] = float(value)
    return found


def measured(results: Results, part: str, field: str, *keys: str) -> Measured | None:
    """Look a number up as `by_seed` does.

    Returns:
        All of them; None if there is none.
    """
    found = by_seed(results, part, field, *keys)
    return Measured(tuple(found.values())) if found else None


def wilson(percent: float, count: int) -> tuple[float, float]:
    """Tell the 95 % interval of a share by Wilson's formula.

    Args:
        percent: The share observed, in %.
        count: Of how many.

    Returns:
        Both ends, in %.

    Example:
        >>> [round(end, 2) for end in wilson(50.0, 100)]
        [40.38, 59.62]
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    share = percent / 100
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low, high = ((middle + side * half) / (1 + z * z / count) for side in (-1, 1))
    return 100 * max(0.0, low), 100 * min(1.0, high)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: In a few words.
        where: In the paper.
        claimed: The paper's number.
        measured: Ours; empty where there is none.
        verdict: One of three.
        why: One sentence with the numbers.
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
            answer, number, why = "cannot be tested here", "", f"{str(reason)[0].upper()}{str(reason)[1:]}."
        return Verdict(self.claim, self.where, self.claimed(results.dataset), number, answer, why)


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


def _have(results: Results, part: str, field: str, *keys: str) -> Measured:
    _run(results, part)
    if (number := measured(results, part, field, *keys)) is None:
        raise CannotBeTested(f"part {part} has no {(keys or (field,))[-1].replace('_', ' ')}")
    if math.isnan(number.mean):
        raise CannotBeTested(f"part {part} has a {(keys or (field,))[-1].replace('_', ' ')} that is not finite")
    return number


def _error(results: Results, part: str) -> Measured:
    if results.dataset == SUBSET:
        raise CannotBeTested("this is a subset of SVHN, of which no test error is given")
    return _have(results, part, "test_error")


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


def _on_how_many(results: Results) -> str:
    """Say that a comparison is of trainings on fewer images than there are."""
    prime = _run(results, "prime")[0]
    return "" if prime.all_images else f", all trained on {prime.images:,} images"


# Tables


def _protocol(results: Results) -> tuple[str, Measured]:
    """The part whose error is the paper's: of phase 2, or where that is missing of phase 1."""
    _run(results, "prime")
    part = "probe" if results.of("probe") else "prime"
    return part, _error(results, part)


def _deviations(results: Results) -> str:
    done = (results.of("prime"), results.of("probe"))
    epochs = tuple(found[0].epochs if found else 0 for found in done)
    instead = f" instead of {EPOCHS[0]} + {EPOCHS[1]}" if epochs != EPOCHS else ""
    return f"{results.settings.size} size, {epochs[0]} + {epochs[1]} epochs{instead}"


def _test_error(results: Results) -> Judgement:
    _whole(results)
    part, error = _protocol(results)
    claimed = TEST_ERRORS[results.dataset]
    images = results.of(part)[0].test_images
    low, high = wilson(error.mean, images)
    holds = low <= claimed
    beside = f"; phase 1 alone {_error(results, 'prime').mean:.2f} %" if part == "probe" else ""
    return (
        holds,
        error.show(unit=" %"),
        f"Phase {2 if part == 'probe' else 1} has {error.mean:.2f} % (95 % interval on {images:,} test images "
        f"{low:.2f} to {high:.2f}), and {claimed} % is {'not below' if holds else 'below'} that interval{beside}; "
        f"{_deviations(results)}.",
    )


TO_BEAT = {"mnist": ("DT-RAM",), "cifar10": ("RNP", "SFP"), "svhn": ("ONE",)}
CLOSE = 0.1
"""Points within which an error counts as close: the paper calls 1.71 close to 1.63."""


def _baselines(results: Results) -> Judgement:
    _whole(results)
    part, error = _protocol(results)
    quoted = {model: best_quoted(results.dataset, model) for model in TO_BEAT[results.dataset]}
    best = min(quoted.values())
    names = " and ".join(f"{model}'s {value:.2f} %" for model, value in quoted.items())
    if results.dataset == "svhn":
        holds = error.mean <= best + CLOSE
        said = f"is {'at most' if holds else 'more than'} {CLOSE} points above {names}"
    else:
        holds = error.mean < best
        said = f"is {'below' if holds else 'not below'} {names}"
    which = f"{error.mean:.2f} % after phase {2 if part == 'probe' else 1}"
    return holds, error.show(unit=" %"), f"{which} {said}, as quoted; {_deviations(results)}."


def _claimed_baselines(dataset: str) -> str:
    if dataset not in TO_BEAT:
        return ""
    names = " and ".join(f"{model} ({best_quoted(dataset, model):.2f} %)" for model in TO_BEAT[dataset])
    return f"{'close to' if dataset == 'svhn' else 'better than'} {names}"


TOLERANCE = 1.02
"""The paper's numbers have two figures."""


def _cost(results: Results) -> Judgement:
    _of_the_paper(results)
    parameters = max(_have(results, "prime", "cost", "parameters").values) / 1e6
    adds = max(_have(results, "prime", "cost", "multiply_adds_inference").values) / 1e6
    claimed = PRIMENET_COST
    holds = parameters <= claimed.parameters * TOLERANCE and adds <= claimed.multiply_adds * TOLERANCE
    has, takes = f"{parameters:.3g} M", f"{written(adds, '.3g')} M"
    return (
        holds,
        f"{has}, {takes}",
        f"The {results.settings.size} size has {has} of parameters and takes {takes} of multiply-adds an image at "
        f"inference, against {claimed.parameters} M and {claimed.multiply_adds} M; multiply-adds are taken for the "
        "paper's FLOPs, and every seed has to keep to both (2 % allowed).",
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


def _clusters(results: Results) -> Judgement:
    _run(results, "prime")
    _same_images(results, "resnet50")
    ours, theirs = (_have(results, part, "extra", "separation", "silhouette") for part in ("prime", "resnet50"))
    holds = ours.mean > theirs.mean
    return (
        holds,
        f"{ours.show()} against {theirs.show()}",
        f"The silhouette of the classes in feature space is {ours.mean:.2f} for PrimeNet and {theirs.mean:.2f} for "
        f"ResNet-50 (1 is best){_on_how_many(results)}.",
    )


WITHIN = 10
"""Epochs of phase 2: "fewer than 10"."""


def _converges(results: Results) -> Judgement:
    epochs = min(result.epochs for result in _run(results, "probe"))
    if epochs <= WITHIN:
        raise CannotBeTested(f"phase 2 had {epochs} epochs, too few to tell whether it goes on learning after {WITHIN}")
    taken = _have(results, "probe", "extra", "epochs_until_converged")
    most = max(taken.values)
    return (
        most < WITHIN,
        taken.show(".1f", unit=" epochs"),
        f"Phase 2 was within 0.1 points of its last training accuracy after at most {most:.0f} of {epochs} epochs "
        f"({_seeds(len(taken.values))}).",
    )


def _above_one_scale(results: Results) -> Judgement:
    parts = ("probe", *ONE_SCALE)
    for part in parts:
        _run(results, part)
    for part in ONE_SCALE:
        _same_images(results, part, "probe")
    curves = {part: [result.curves.get("train_accuracy", []) for result in results.of(part)] for part in parts}
    if empty := [part for part, found in curves.items() if not all(found)]:
        raise CannotBeTested(f"part {empty[0]} has no curve of its training accuracy")
    early = min(WITHIN, *(len(curve) for found in curves.values() for curve in found))
    after = {part: statistics.fmean(curve[early - 1] for curve in found) for part, found in curves.items()}
    last = {part: statistics.fmean(curve[-1] for curve in found) for part, found in curves.items()}
    holds = all(when["probe"] > max(when[part] for part in ONE_SCALE) for when in (after, last))
    rivals = {when: ", ".join(f"{values[part]:.2f}" for part in ONE_SCALE) for when, values in enumerate((after, last))}
    return (
        holds,
        f"{after['probe']:.2f} %, at the end {last['probe']:.2f} %",
        f"After {early} epochs phase 2 has {after['probe']:.2f} % of the training images right and the nets of 3x3, "
        f"5x5, 7x7 {rivals[0]} %; at the end {last['probe']:.2f} % against {rivals[1]} %{_on_how_many(results)}.",
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


def _standard_error(one: Measured, other: Measured) -> float:
    """Of the difference of the means; 0 where there is a single seed."""
    if one.spread is None or other.spread is None:
        return 0.0
    return math.sqrt(one.spread**2 / len(one.values) + other.spread**2 / len(other.values))


def _argmin_helps(results: Results) -> Judgement:
    ours = _error(results, "prime")
    others = {name: _error(results, name) for name in ("local_fixed", "local_random")}
    for name in others:
        _same_images(results, name)
    holds = all(other.mean - ours.mean > _standard_error(ours, other) for other in others.values())
    fixed, random = (
        f"{other.mean:.2f} % (standard error of the difference {_standard_error(ours, other):.2f})"
        if _standard_error(ours, other)
        else f"{other.mean:.2f} %"
        for other in others.values()
    )
    return (
        holds,
        ours.show(unit=" %"),
        f"Phase 1 has {ours.mean:.2f} % test error routed by the least loss, {fixed} with a fixed route and {random} "
        f"with a random one{_on_how_many(results)}.",
    )


RETAINED = 1.05
"""How many times the end-to-end error still counts as the same performance."""


def _retains(results: Results) -> Judgement:
    ours = _error(results, "prime")
    run = [name for name in TWINS if results.of(name)] or [TWINS[0]]
    twins = {name: _error(results, name) for name in run}
    for name in twins:
        _same_images(results, name)
    best = min(twins, key=lambda name: twins[name].mean)
    how = {"end_to_end_mean": "maps averaged", "end_to_end_concatenate": "maps concatenated"}[best]
    holds = ours.mean <= RETAINED * twins[best].mean
    missing = "" if len(twins) == len(TWINS) else "; the other twin was not run"
    return (
        holds,
        ours.show(unit=" %"),
        f"Phase 1 has {ours.mean:.2f} % test error and the best end-to-end twin ({how}) {twins[best].mean:.2f} %"
        f"{_on_how_many(results)}; up to {RETAINED} times that counts as retained{missing}.",
    )


def _saves(results: Results) -> Judgement:
    ours, all_maps = (
        _have(results, part, "cost", "multiply_adds_inference") for part in ("prime", "end_to_end_concatenate")
    )
    one, every = (f"{written(number.mean / 1e6, '.3g')} M" for number in (ours, all_maps))
    return (
        ours.mean < all_maps.mean,
        one,
        f"At inference the routed network takes {one} of multiply-adds an image, the one with all capsules' maps "
        f"concatenated {every}.",
    )


def _above_plain(results: Results) -> Judgement:
    ours = _error(results, "prime")
    plain = {name: _error(results, name) for name in ONE_SCALE}
    for name in plain:
        _same_images(results, name)
    holds = all(ours.mean < other.mean for other in plain.values())
    rivals = ", ".join(f"{other.mean:.2f}" for other in plain.values())
    return (
        holds,
        ours.show(unit=" %"),
        f"Phase 1 has {ours.mean:.2f} % test error, the nets of 3x3, 5x5, 7x7 {rivals} %{_on_how_many(results)}.",
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
