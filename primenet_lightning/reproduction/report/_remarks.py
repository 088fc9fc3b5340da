"""What a report says in sentences: what one has to know before any number, and what leaked labels would be worth."""

from typing import NamedTuple

from primenet_lightning.paper import SPLITS, SUBSET, TITLES
from primenet_lightning.reproduction._results import PARTS, Result, Results
from primenet_lightning.reproduction.report._finding import by_seed, measured, paired
from primenet_lightning.reproduction.report._measurements import Measured, difference
from primenet_lightning.reproduction.report._wording import between, say, written

SHORT = {"resnet50": "ResNet-50", "sfp": "SFP"}
"""What parts are called in a list, where a comma would split the name."""

SYSTEMS = ("condensenet", "msdnet", "imta", "one", "rnp", "dt_ram")

HEAVY = ("resnet50", "resnet20", "sfp", "multi_exit", *SYSTEMS)

OWN = ", own verdict"
"""What routings are called that take the verdict of the capsule, not the head's."""

LEAKED = {
    "": "Handed on to the head, which knows best the maps that training routed most",
    OWN: "Answered by the chosen capsule's own local classifier, which shows what the label is worth",
}
"""How sentences on leaked labels begin, by what the routings' names end in."""

SENTENCES = ("data", "cut", "epochs_of_phases", "epochs_of_heavy", "size", "tested", "not_run")
"""Of ``templates/remarks.j2``, in their order."""


def remarks(results: Results) -> list[str]:
    """Say whether the data are the paper's, what was cut, and by what rules it was measured."""
    settings, prime, probe = results.settings, results.of("prime"), results.of("probe")
    phase_1 = prime[0].epochs if prime else settings.epochs
    phase_2 = probe[0].epochs if probe else settings.probe_epochs
    facts = {
        "settings": settings,
        "prime": prime,
        "subset": results.dataset == SUBSET,
        "known": results.dataset in SPLITS,
        "name": TITLES.get(results.dataset, results.dataset),
        "svhn": SPLITS["svhn"],
        "quick": settings.scale == "quick",
        "groups": by_images(results),
        "epochs": (phase_1, phase_2),
        "systems": any(map(results.of, SYSTEMS)),
        "heavy": between([result.epochs for part in HEAVY for result in results.of(part)]),
        "missing": results.missing(PARTS),
    }
    sentences = [say("remarks", sentence, **facts) for sentence in SENTENCES]
    return list(filter(None, sentences))


class Group(NamedTuple):
    """Parts that saw as many training images, and whether these are all there are."""

    images: int
    every: bool
    parts: list[str]
    results: list[Result]

    @property
    def titles(self) -> list[str]:
        """What the parts are called."""
        return [PARTS[part] for part in self.parts]

    @property
    def short_titles(self) -> list[str]:
        """What they are called in a list."""
        return [SHORT.get(part, PARTS[part]) for part in self.parts]


def by_images(results: Results) -> list[Group]:
    """Group the parts by what they saw; first what most saw."""
    groups: dict[tuple[int, bool], Group] = {}
    for part in PARTS:
        for result in sorted(results.of(part), key=lambda result: (result.images, result.all_images)):
            images = (result.images, result.all_images)
            group = groups.setdefault(images, Group(*images, [], []))
            group.results.append(result)
            if part not in group.parts:
                group.parts.append(part)
    return sorted(groups.values(), key=lambda group: -len(group.parts))


def leaked_labels(results: Results) -> list[str]:
    """Say which way leaked labels move the error: through the head, and by the chosen capsule's own verdict."""
    free = by_seed(results, "prime", "test_error")
    sentences = []
    for own, begin in LEAKED.items():
        batch = paired(by_seed(results, "prime", "extra", "routings", f"oracle per batch{own}"), free)
        sample = paired(by_seed(results, "prime", "extra", "routings", f"oracle per sample{own}"), free)
        if batch and sample:
            sentences.append(say("remarks", "leaked_labels", begin=begin, batch=_moved(*batch), sample=_moved(*sample)))
    return sentences


def _moved(leaked: Measured, free: Measured) -> dict[str, str]:
    """Which way an error went, as far as it can be written, and to what."""
    change = float(written(difference(leaked, free).mean, "+.2f"))
    way = "leave the error at"
    if change > 0:
        way = "raise the error to"
    elif change < 0:
        way = "lower the error to"
    return {"way": way, "error": leaked.show(unit=" %")}


def findings(results: Results) -> list[str]:
    """Say what was found beside the paper's claims, if anything was measured."""
    free, leaked = measured(results, "prime", "test_error"), leaked_labels(results)
    if not free or not leaked:
        return []
    return [say("remarks", "finding", free=free, leaked=leaked)]


def head_start(results: Results) -> str:
    """Say what figure 7 compares, in half a sentence."""
    prime = results.of("prime")
    return say("remarks", "head_start", epochs=prime[0].epochs if prime else results.settings.epochs)
