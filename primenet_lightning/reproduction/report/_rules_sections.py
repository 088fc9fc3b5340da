"""The claims of the paper's sections, and by what they are judged."""

from collections.abc import Mapping
from typing import Any

from primenet_lightning.reproduction._results import ONE_SCALE, Results
from primenet_lightning.reproduction.report import _finding as find
from primenet_lightning.reproduction.report._measurements import Measured, difference, noise
from primenet_lightning.reproduction.report._rule import CannotBeTested, Judgement, Rule
from primenet_lightning.reproduction.report._wording import written

LEAST_SHARE = 0.05
"""Of the batches of the last epoch; a capsule routed less often does not count as in use."""

RETAINED = 1.05
"""How many times the end-to-end error still counts as the same performance."""

REQUIRED = {"local_fixed": "always the last (largest) scale", "local_random": "a random scale"}
"""Local learning without the selection, without which it cannot be judged."""

OPTIONAL = {"local_mean": "maps averaged", "local_concatenate": "maps concatenated"}
"""Likewise, but compared only where they were run."""

TWINS = {"end_to_end_mean": "maps averaged", "end_to_end_concatenate": "maps concatenated"}
TRAINED = {"prime": "it", "end_to_end_mean": "the twin with averaged maps", "one_scale_7": "the one-scale net of 7x7"}
"""Whose multiply-adds in training are told, and how."""


def _adapts(results: Results) -> Judgement:
    seconds = []  # each seed's second largest share
    for result in find.run(results, "prime"):
        shares = sorted((result.extra.get("shares") or {}).values())
        if len(shares) < 2:
            raise CannotBeTested("part prime has no shares of its routing")
        seconds.append(shares[-2])
    shown = ", ".join(f"{100 * share:.0f} %" for share in seconds)
    facts = {"shown": shown, "count": len(seconds), "least": LEAST_SHARE}
    return Judgement(min(seconds) >= LEAST_SHARE, shown, facts)


def _better(results: Results, others: Mapping[str, str]) -> Judgement:
    """Whether phase 1's test error is lower than every other by more than the noise."""
    for part in others:
        find.refuse_fewer_images(results, part)
    ours, *rivals = find.errors(results, "prime", *others)
    images = _least_test_images(results, "prime", *others)
    holds, compared = True, []
    for name, rival in zip(others.values(), rivals, strict=True):
        lead, chance = difference(rival, ours).mean, noise(ours, rival, images)
        holds = holds and lead > chance
        compared.append(f"{name} {rival.mean:.2f} % ({written(lead, '+.2f')} points, noise {chance:.2f})")
    facts = {"ours": ours, "compared": compared, "prime": results.of("prime")[0]}
    return Judgement(holds, ours.show(unit=" %"), facts)


def _least_test_images(results: Results, *parts: str) -> int:
    return min(result.test_images for part in parts for result in results.of(part))


def _argmin_helps(results: Results) -> Judgement:
    return _better(results, REQUIRED | {part: name for part, name in OPTIONAL.items() if results.of(part)})


def _above_plain(results: Results) -> Judgement:
    return _better(results, {part: f"{size}x{size}" for part, size in ONE_SCALE.items()})


def _retains(results: Results) -> Judgement:
    twins = list(filter(results.of, TWINS)) or ["end_to_end_mean"]
    for part in twins:
        find.refuse_fewer_images(results, part)
    ours, *errors = find.errors(results, "prime", *twins)
    best = min(errors, key=lambda error: error.mean)
    part = twins[errors.index(best)]
    images = _least_test_images(results, "prime", part)
    above, chance = difference(ours, best, RETAINED).mean, noise(ours, best, images, RETAINED)
    facts: dict[str, Any] = {"ours": ours, "best": best, "how": TWINS[part], "above": above, "chance": chance}
    facts |= {"times": RETAINED, "alone": len(twins) < len(TWINS), "prime": results.of("prime")[0]}
    if abs(above) <= chance:
        return Judgement(None, "", facts)
    return Judgement(above <= 0, ours.show(unit=" %"), facts)


def _saves(results: Results) -> Judgement:
    ours, every = find.numbers(results, ("prime", "end_to_end_concatenate"), "cost", "multiply_adds_inference")
    takes = []
    for part, name in TRAINED.items():
        if training := find.measured(results, part, "cost", "multiply_adds_training"):
            takes.append(f"{name} takes {_millions(training)}")
    facts = {"routed": _millions(ours), "every": _millions(every), "takes": takes, "ours": ours}
    facts["prime"] = results.of("prime")[0]
    return Judgement(ours.mean < every.mean, _millions(ours), facts)


def _millions(number: Measured) -> str:
    return f"{written(number.mean / 1e6, '.3g')} M"


SECTION_RULES = (
    Rule("The selection adapts", "Section 3.3", "more than one scale is used", _adapts, "adapts"),
    Rule("Selection by least loss helps", "Sections 3.3, 5.1", "better than without", _argmin_helps, "argmin_helps"),
    Rule("Local learning retains performance", "Abstract, section 6", "no loss", _retains, "retains"),
    Rule("Soft pruning saves cost", "Section 3.3", "fewer operations", _saves, "saves"),
    Rule("Several scales beat one", "Section 5.2", "better than one scale", _above_plain, "above_plain"),
)
