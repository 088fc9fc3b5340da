"""What a report says in sentences: what one has to know before any number, and what leaked labels would be worth."""

from primenet_lightning.paper import EPOCHS, RESNET50_COST, SPLITS, SUBSET, TITLES
from primenet_lightning.reproduction.report.measurements import (
    Measured,
    between,
    by_seed,
    difference,
    measured,
    paired,
    written,
)
from primenet_lightning.reproduction.results import PARTS, Results

SHORT = {"resnet50": "ResNet-50", "sfp": "SFP"}
"""What parts are called in a list, where a comma would split the name."""

HEAVY = ("resnet50", "resnet20", "sfp", "multi_exit")
OWN = ", own verdict"
"""What routings are called that take the verdict of the capsule, not the head's."""


def remarks(results: Results) -> list[str]:
    """Say in sentences what a reader has to know before any number.

    Args:
        results: What was measured.

    Returns:
        Sentences: whether the data are the paper's, what was cut, and by what rules it was measured.
    """
    settings, name = results.settings, TITLES.get(results.dataset, results.dataset)
    said = []
    if results.dataset == SUBSET:
        said.append(_of_the_subset(results))
    elif results.dataset not in SPLITS:
        said.append(f"The paper has no results on {name}: its numbers for other images are no measure of these.")
    if cut := _cut(results):
        said.append(cut)
    prime, probe = results.of("prime"), results.of("probe")
    epochs = (prime[0].epochs if prime else settings.epochs, probe[0].epochs if probe else settings.probe_epochs)
    if epochs != EPOCHS:
        said.append(f"Epochs of phases 1 and 2: {epochs[0]} + {epochs[1]}; the paper has {EPOCHS[0]} + {EPOCHS[1]}.")
    heavy = [result.epochs for part in HEAVY for result in results.of(part)]
    if heavy and {*heavy} != {int(RESNET50_COST.epochs)}:
        said.append(
            f"Epochs of the ResNets and the multi-exit network: {between(heavy)}; the paper has 50 of ResNet-50."
        )
    size = "what the paper says the network costs" if settings.size == "compact" else "the widths of the authors' code"
    said.append(f"PrimeNet has the {settings.size} size: {size}.")
    said.append(
        "What is tested is the checkpoint of least validation error, routed without labels wherever nothing else is "
        "said."
    )
    if missing := [title for part, title in PARTS.items() if not results.of(part)]:
        said.append(f"Not run: {'; '.join(missing)}.")
    return said


def _of_the_subset(results: Results) -> str:
    found = results.of("prime")
    images = f" ({found[0].images:,} training and {found[0].test_images:,} test images)" if found else ""
    split = SPLITS["svhn"]
    return (
        f"This is a small subset of SVHN{images}, not SVHN with its {split.train:,} training and {split.test:,} test "
        "images. No test error is given: one measured here would say nothing about SVHN."
    )


def by_images(results: Results) -> dict[tuple[int, bool], list[str]]:
    """Group the parts by what they saw.

    Args:
        results: What was measured.

    Returns:
        Parts by how many training images they saw, and whether these are all; first what most parts saw.
    """
    groups: dict[tuple[int, bool], list[str]] = {}
    for part in PARTS:
        for seen in sorted({(result.images, result.all_images) for result in results.of(part)}):
            groups.setdefault(seen, []).append(part)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _cut(results: Results) -> str:
    """What was left out, by the numbers in the results."""
    groups = by_images(results)
    quick = results.settings.scale == "quick"
    begin = "This is the quick scale, not the paper's schedule" if quick else ""
    if all(whole for _, whole in groups):
        return begin and f"{begin}."
    (usual, whole), *_ = groups
    fewer = "; ".join(
        f"{images:,} for {', '.join(SHORT.get(part, PARTS[part]) for part in parts)}"
        for (images, _), parts in list(groups.items())[1:]
    )
    seen = f"all {usual:,} training images" if whole else f"{usual:,} training images, not all there are"
    return f"{begin}{': trained on ' if quick else 'Trained on '}{seen}{f'; {fewer}' if fewer else ''}."


def leaked_labels(results: Results) -> list[str]:
    """Say which way leaked labels move the error: through the head, and by the chosen capsule's own verdict.

    Args:
        results: What was measured.

    Returns:
        A sentence each; empty where nothing leaked.
    """
    base = by_seed(results, "prime", "test_error")
    said = []
    for own, begin in (
        ("", "Handed on to the head, which knows best the maps that training routed most"),
        (OWN, "Answered by the chosen capsule's own local classifier, which shows what the label is worth"),
    ):
        ways = (("extra", "routings", f"oracle per {unit}{own}") for unit in ("batch", "sample"))
        found = [paired(by_seed(results, "prime", *way), base) for way in ways]
        if all(found):
            (way, batch), (way_too, sample) = (_moved(leaked, free) for leaked, free in found)
            then = "" if way == way_too else f"{way_too} "
            said.append(
                f"{begin}, leaked labels {way} {batch} with one capsule a batch and {then}{sample} with one an image."
            )
    return said


def _moved(leaked: Measured, free: Measured) -> tuple[str, str]:
    """Say which way an error went, as far as it can be written, and to what."""
    change = float(written(difference(leaked, free).mean, "+.2f"))
    way = "raise the error to" if change > 0 else "lower the error to" if change < 0 else "leave the error at"
    return way, leaked.show(unit=" %")


def findings(results: Results) -> list[str]:
    """Say what was found beside the paper's claims.

    Args:
        results: What was measured.

    Returns:
        Sentences; none where nothing was measured.
    """
    free = measured(results, "prime", "test_error")
    leaked = leaked_labels(results)
    if free is None or not leaked:
        return []
    begin = f"What label leakage would be worth: phase 1's test error is {free.show(unit=' %')} routed without labels."
    return [" ".join((begin, *leaked, "Errors with leaked labels are no test results."))]
