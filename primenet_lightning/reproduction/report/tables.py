"""The tables of a report as plain strings: what was measured, and beside it what the paper claims."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from primenet_lightning.paper import (
    PRIMENET_COST,
    QUOTED_COSTS,
    QUOTED_ERRORS,
    RESNET50_COST,
    SPLITS,
    SUBSET,
    TEST_ERRORS,
    TITLES,
    ClaimedCost,
)
from primenet_lightning.reproduction.report.measurements import (
    ERRORS,
    Measured,
    between,
    by_seed,
    difference,
    listed,
    measured,
    paired,
    written,
)
from primenet_lightning.reproduction.report.remarks import OWN, by_images, leaked_labels
from primenet_lightning.reproduction.report.verdicts import judge
from primenet_lightning.reproduction.results import PARTS, Result, Results

PHASE_2 = ("probe", "probe_routed", "probe_capsules", "probe_finetune")
NOT_RUN = "not run"
NOT_RECORDED = "not recorded"
EXIT_AT = 0.9
"""The threshold at which the network of several exits is tested."""
MEAN = "mean ± sample standard deviation over the seeds (their number)"


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        key: Short name.
        title: Its heading.
        note: What one has to know to read it.
        heads: Of the columns.
        rows: As many strings each as there are heads.
        words: Whether the cells are sentences and not numbers.
    """

    key: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


def tables(results: Results) -> list[Table]:
    """Make all tables that have something to say.

    Args:
        results: What was measured; any part may be missing.

    Returns:
        In the order of the report. Of the subset of SVHN none has an error in it.
    """
    made = [verdict_table(results), splits_table(results)]
    if results.dataset != SUBSET:
        made.append(error_table(results))
    made += [
        cost_table(results),
        ablation_table(results),
        inference_table(results),
        shares_table(results),
        probe_table(results),
        exits_table(results),
        settings_table(results),
    ]
    return [table for table in made if table.rows]


def _not_run(results: Results, parts: Iterable[str]) -> str:
    missing = [PARTS[part] for part in parts if not results.of(part)]
    return f" Not run: {'; '.join(missing)}." if missing else ""


def _show(number: Measured | None, form: str = ".2f", scale: float = 1.0) -> str:
    return "" if number is None else number.show(form, scale)


def _counted(number: Measured | None, form: str, scale: float = 1.0) -> str:
    """What is counted, and not measured, is the same with all seeds unless they took different routes."""
    if number is not None and len({*number.values}) == 1:
        return written(number.mean / scale, form)
    return _show(number, form, scale)


def _only(results: Sequence[Result], field: str) -> str:
    """A whole number that all seeds should share; both ends if they do not."""
    return between([getattr(result, field) for result in results])


def _images(results: Sequence[Result]) -> str:
    subset = "" if all(result.all_images for result in results) else ", a subset"
    return f"{_only(results, 'images')}{subset}"


def _plain(value: float) -> str:
    return f"{value:g}"


def verdict_table(results: Results) -> Table:
    """What became of each claim.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    rows = tuple((v.claim, v.where, v.claimed, v.measured, v.verdict, v.why) for v in judge(results))
    heads = ("claim", "where", "claimed", "measured", "verdict", "why")
    note = f"Measured: {MEAN}. A claim is confirmed or not for this run's data, sizes and epochs."
    return Table("verdicts", "Verdicts", note, heads, rows, words=True)


def settings_table(results: Results) -> Table:
    """What all parts have in common, and how each was trained.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    settings = results.settings
    rows = [
        ("data", TITLES.get(settings.dataset, settings.dataset)),
        ("scale", settings.scale),
        ("size of PrimeNet", settings.size),
        ("seeds", str(settings.seeds)),
        ("epochs, phase 1 and phase 2", f"{settings.epochs} + {settings.probe_epochs}"),
        ("training images", _told(settings.images)),
        ("ResNets and multi-exit: training images", _told(settings.heavy_images)),
        ("ResNets and multi-exit: epochs", str(settings.heavy_epochs or settings.epochs)),
        ("batch, phase 1 and phase 2", f"{settings.batch_size}, {settings.probe_batch_size}"),
        ("precision", settings.precision),
        *_conditions(results, "device", lambda result: result.device),
        *_conditions(results, "versions", _versions),
    ]
    recipes: dict[str, list[str]] = {}
    for part, title in PARTS.items():
        for recipe in dict.fromkeys(result.recipe for result in results.of(part)):
            recipes.setdefault(recipe, []).append(title)
    rows += [(f"trained by {recipe}", "; ".join(parts)) for recipe, parts in recipes.items()]
    return Table("settings", "Settings", "What holds for all parts.", ("", "this run"), tuple(rows), words=True)


def _told(images: int | None) -> str:
    return "all but those held out" if images is None else f"{images:,}"


def _versions(result: Result) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))


def _conditions(results: Results, name: str, told: Callable[[Result], str]) -> list[tuple[str, str]]:
    """One row of what all parts have in common, or where they differ one each, with its parts and seeds."""
    found: dict[str, dict[str, list[int]]] = {}
    for part in PARTS:
        for result in results.of(part):
            found.setdefault(told(result) or NOT_RECORDED, {}).setdefault(part, []).append(result.seed)
    if len(found) == 1:
        return [(name, text) for text in found]
    return [
        (name, f"{text}: {'; '.join(_seeds_of(results, *part) for part in parts.items())}")
        for text, parts in found.items()
    ]


def _seeds_of(results: Results, part: str, seeds: Sequence[int]) -> str:
    """A part, with its seeds where these are not all."""
    if len(seeds) == len(results.of(part)):
        return PARTS[part]
    return f"{PARTS[part]} (seed{'s' if len(seeds) > 1 else ''} {listed(list(map(str, seeds)))})"


def splits_table(results: Results) -> Table:
    """Table 1: the data.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    claimed = SPLITS.get(results.dataset)
    name = TITLES.get(results.dataset, results.dataset)
    rows = []
    if claimed:
        numbers = (str(claimed.classes), f"{claimed.train:,}", "not told", f"{claimed.test:,}")
        rows.append((f"{name} in the paper", claimed.size, *numbers))
    for seen, parts in by_images(results).items():
        found = [one for part in parts for one in results.of(part) if (one.images, one.all_images) == seen]
        # what most parts saw needs no list of them
        which = "this run" if len(rows) <= bool(claimed) else f"this run: {'; '.join(PARTS[part] for part in parts)}"
        sizes = dict.fromkeys("x".join(map(str, (*one.in_shape[1:], one.in_shape[0]))) for one in found if one.in_shape)
        held_out, classes = (
            between([value for one in found if (value := getattr(one, field))]) or NOT_RECORDED
            for field in ("validation_images", "classes")
        )
        numbers = (classes, f"{seen[0]:,}", held_out, _only(found, "test_images"))
        rows.append((which, ", ".join(sizes) or NOT_RECORDED, *numbers))
    note = "Training images are those that weights are learned from; those held out choose the checkpoint."
    heads = ("", "image", "classes", "training images", "held out for validation", "test images")
    return Table("table1", "Table 1: data", note, heads, tuple(rows))


TABLE_2 = (
    *("prime", "probe", "end_to_end_mean", "end_to_end_concatenate", "one_scale_3", "one_scale_5", "one_scale_7"),
    *("resnet50", "resnet20", "sfp", "multi_exit"),
)


def error_table(results: Results) -> Table:
    """Table 2: test errors, and those that the paper quotes.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    rows = []
    for part in TABLE_2:
        claimed = f"{TEST_ERRORS[results.dataset]:g}" if part == "probe" and results.dataset in TEST_ERRORS else ""
        title = _exits_title(results) if part == "multi_exit" else None
        rows.append(_error_row(results, part, measured(results, part, "test_error"), claimed, title))
        if part == "prime":
            vote = measured(results, "prime", "extra", "routings", "vote")
            rows.append(_error_row(results, "prime", vote, "", "vote of phase 1's capsules"))
        if part == "probe":
            check = measured(results, "probe", "extra", "logistic_test_error")
            rows.append(_error_row(results, "probe", check, "", "scikit-learn's logistic regression, same features"))
    rows += [
        (f"{quoted.model}, quoted, {quoted.technique}", NOT_RUN, "", "", ", ".join(map(_plain, quoted.errors)))
        for quoted in QUOTED_ERRORS
        if quoted.dataset == results.dataset
    ]
    note = (
        f"Test error in %: {MEAN}. Rows marked as quoted are the paper's figures for other systems and were not run. "
        "The paper's PrimeNet stands beside phase 2, as its evaluation is of that phase."
    )
    if sfp := results.of("sfp"):
        note += (
            f" SFP prunes after every epoch, here under a constant learning rate and {_only(sfp, 'epochs')} epochs, "
            "where its paper has 200: its error is that of this recipe, not of the method at its best."
        )
    heads = ("", "test error (%)", "training images", "epochs", "the paper's figure (%)")
    return Table("table2", "Table 2: test error", note, heads, tuple(rows))


def _exits_title(results: Results) -> str:
    """Of the network of several exits, with the threshold that its error is taken at."""
    return f"{PARTS['multi_exit']}{f', threshold {EXIT_AT:g}' if results.of('multi_exit') else ''}"


def _error_row(
    results: Results, part: str, error: Measured | None, claimed: str, title: str | None = None
) -> tuple[str, ...]:
    found = results.of(part)
    title = title or PARTS[part]
    if not found or error is None:
        return (title, "not given" if found else NOT_RUN, "", "", claimed)
    epochs = _only(found, "epochs")
    if part == "probe" and results.of("prime"):
        epochs = f"{_only(results.of('prime'), 'epochs')} + {epochs}"
    return (title, error.show(), _images(found), epochs, claimed)


def cost_table(results: Results) -> Table:
    """Table 3: what each network costs, and what the paper says.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    claims: dict[str, ClaimedCost] = {}
    if results.dataset in SPLITS or results.dataset == SUBSET:
        claims = {"prime": PRIMENET_COST, "resnet50": RESNET50_COST}
    rows = []
    for part in PARTS:
        if not results.of(part):
            continue
        rows.append(_cost_row(results, part, claims.get(part)))
        if part == "prime" and (counted := _paper_size_row(results, claims.get(part))):
            rows.append(counted)
        if (pruned := measured(results, part, "extra", "multiply_adds_pruned")) is not None:
            rows.append(("the same without its pruned filters", "", "", _counted(pruned, ".3g", 1e6), *[""] * 6))
    for claim in QUOTED_COSTS:
        if results.dataset in claim.datasets:
            numbers = ("", _plain(claim.parameters), "", _plain(claim.multiply_adds), "", "", "", claim.epochs, "")
            rows.append((f"{claim.model}, quoted", *numbers))
    heads = (
        *("", "parameters (M)", "claimed (M)", "multiply-adds, inference (M)", "claimed (M)"),
        *("multiply-adds, training (M)", "activations (MiB)", "epochs", "claimed", "seconds an epoch"),
    )
    return Table("table3", "Table 3: cost", _cost_note(results), heads, tuple(rows))


def _cost_note(results: Results) -> str:
    batches = f"{results.settings.batch_size} images, in phase 2 {results.settings.probe_batch_size}"
    note = (
        "Multiply-adds an image: one multiplication with its addition is one; convolutions and matrix products are "
        "counted, nothing else. The paper calls its figures FLOPs. PrimeNet's at inference are of the route without "
        "labels, those in training of forward and backward passes. Activations: the most that autograd holds for the "
        f"backward pass of one training batch ({batches}). Seconds are of the part's device (settings), and "
        "grow with the training images (table 2)."
    )
    if any(map(results.of, PHASE_2)):
        note += (
            " Phase 2's parameters and multiply-adds at inference are of PrimeNet's features and the layer on them "
            "together; those in training are of the layer alone, since the features are extracted once, and its "
            "seconds leave that extraction out; with the network unfrozen they are of all that learns."
        )
    if _mean_exit(results):
        note += (
            f" The multi-exit network's multiply-adds at inference are the mean over the test images at threshold "
            f"{EXIT_AT:g}."
        )
    elif results.of("multi_exit"):
        note += " The multi-exit network's multiply-adds at inference are of all its exits."
    return f"{note} Numbers: {MEAN}, or one number where all seeds have the same.{_not_run(results, PARTS)}"


def _mean_exit(results: Results) -> Measured | None:
    """What an image costs on average where the error of the network of several exits is taken; None if not known."""
    costs = [
        float(at["multiply_adds"])
        for result in results.of("multi_exit")
        for at in result.extra.get("exits") or []
        if math.isclose(at["threshold"], EXIT_AT)
    ]
    return Measured(tuple(costs)) if costs and len(costs) == len(results.of("multi_exit")) else None


def _paper_size_row(results: Results, claim: ClaimedCost | None) -> tuple[str, ...]:
    """The network of the authors' widths, which nobody trained; empty if it was not counted."""
    keys = ("parameters", "multiply_adds_inference")
    counted = [measured(results, "prime", "extra", "paper_size_cost", key) for key in keys]
    if None in counted:
        return ()
    parameters, adds = (_counted(number, ".3g", 1e6) for number in counted)
    claimed = (_plain(claim.parameters), _plain(claim.multiply_adds)) if claim else ("", "")
    title = "PrimeNet of the authors' widths (paper size), counted, cheapest route"
    return (title, parameters, claimed[0], adds, claimed[1], *[""] * 5)


def _cost_row(results: Results, part: str, claim: ClaimedCost | None) -> tuple[str, ...]:
    def cost(key: str, scale: float) -> str:
        return _counted(measured(results, part, "cost", key), ".3g", scale)

    at_exit = _mean_exit(results) if part == "multi_exit" else None
    return (
        f"{PARTS[part]}, threshold {EXIT_AT:g}" if at_exit else PARTS[part],
        cost("parameters", 1e6),
        _plain(claim.parameters) if claim else "",
        _counted(at_exit, ".3g", 1e6) if at_exit else cost("multiply_adds_inference", 1e6),
        _plain(claim.multiply_adds) if claim else "",
        cost("multiply_adds_training", 1e6),
        cost("activation_bytes", 2**20),
        _only(results.of(part), "epochs"),
        claim.epochs if claim else "",
        _show(measured(results, part, "seconds_per_epoch"), ".3g"),
    )


ABLATIONS = {
    "routing in training": ("local_fixed", "local_random", "local_mean", "local_concatenate"),
    "projection": ("no_projection",),
    "scales": ("four_scales", "one_scale_3", "one_scale_5", "one_scale_7"),
    "local against end to end": ("end_to_end_mean", "end_to_end_concatenate"),
}


def ablation_table(results: Results) -> Table:
    """What becomes of phase 1 when one thing is changed.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    base = by_seed(results, "prime", "test_error")
    title = "Ablations of the training"
    heads = ("network", "changed", "test error (%)", "difference (points)", "multiply-adds, inference (M)", "images")
    rows = []
    for what, parts in {"nothing": ("prime",), **ABLATIONS}.items():
        for part in parts:
            if results.of(part):
                errors = by_seed(results, part, "test_error")
                difference = "" if part == "prime" else _difference(errors, base)
                adds = _counted(measured(results, part, "cost", "multiply_adds_inference"), ".3g", 1e6)
                shown = _show(measured(results, part, "test_error"))
                rows.append((PARTS[part], what, shown, difference, adds, _images(results.of(part))))
    note = f"Differences to phase 1 seed by seed, positive where the change is worse; {MEAN}."
    note += _not_run(results, (part for parts in ABLATIONS.values() for part in parts))
    if results.dataset == SUBSET:  # without errors there is nothing to compare
        rows = []
    return Table("ablations", title, note, heads, tuple(rows) if len(rows) > 1 else ())


def _difference(errors: dict[int, float], base: dict[int, float]) -> str:
    common = paired(errors, base)
    return difference(common[0], common[1]).show("+.2f") if common else ""


ROUTINGS = {
    "majority": "the capsule that training routed most",
    "random": "a capsule at random",
    "min_entropy": "by image, the capsule surest of its verdict",
    "vote": "vote of the capsules, without the head",
    "mean of heads": "head's mean over all capsules",
    "oracle per batch": "least loss of the batch, handed on to the head",
    "oracle per sample": "least loss of the image, handed on to the head",
    "oracle per batch, own verdict": "least loss of the batch, its local classifier answers",
    "oracle per sample, own verdict": "least loss of the image, its local classifier answers",
}
"""Ways to choose a capsule for test images, beside ``"fixed <capsule>"``."""


def inference_table(results: Results) -> Table:
    """What the test error becomes with other choices of the capsule, the two that need labels last.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    base = by_seed(results, "prime", "test_error")
    rows = []
    if base:
        rows.append(("as reported", "no", Measured(tuple(base.values())).show(), ""))
    for name in _routings(results):
        errors = by_seed(results, "prime", "extra", "routings", name)
        text = ROUTINGS.get(name, f"always {name.removeprefix('fixed ')}" if name.startswith("fixed ") else name)
        text = f"{name.removesuffix(OWN)}: {text}" if name in ROUTINGS else text
        leaks = "yes" if _leaks(name) else "no"
        rows.append((text, leaks, Measured(tuple(errors.values())).show(), _difference(errors, base)))
    note = (
        "The same trained networks of phase 1, routed otherwise on the test images. Rows that need test labels are no "
        f"test results.{''.join(f' {sentence}' for sentence in leaked_labels(results))} Differences to the error as "
        f"reported; {MEAN}."
    )
    heads = ("capsule chosen by", "needs test labels", "test error (%)", "difference (points)")
    return Table("inference", "Routing at inference", note, heads, tuple(rows))


def _routings(results: Results) -> list[str]:
    names = dict.fromkeys(name for result in results.of("prime") for name in result.extra.get("routings") or {})
    given = [name for name in names if by_seed(results, "prime", "extra", "routings", name)]
    fixed = sorted(name for name in given if name not in ROUTINGS)
    return [*(name for name in ROUTINGS if name in given and not _leaks(name)), *fixed, *filter(_leaks, given)]


def _leaks(routing: str) -> bool:
    return routing.startswith("oracle")


def shares_table(results: Results) -> Table:
    """How often each capsule was routed in training.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    names = dict.fromkeys(name for result in results.of("prime") for name in result.extra.get("shares") or {})
    rows = []
    for name in names:
        last = by_seed(results, "prime", "extra", "shares", name)
        whole = measured(results, "prime", "extra", "shares_all", name)
        each = ", ".join(f"{100 * share:.0f}" for share in last.values())
        rows.append((name, _show(Measured(tuple(last.values())), ".1f", 0.01), each, _show(whole, ".1f", 0.01)))
    note = f"Share of phase 1's training batches for which each capsule was routed, in %; {MEAN}."
    heads = ("capsule", "last epoch (%)", "last epoch, seed by seed (%)", "whole training (%)")
    return Table("shares", "Which capsule was routed", note, heads, tuple(rows))


PROBE_COLUMNS = {
    "features": ("features", ",.0f"),
    "phase1_test_error": ("phase 1 (%)", ".2f"),
    "test_error": ("test error (%)", ".2f"),
    "logistic_test_error": ("scikit-learn's error (%)", ".2f"),
    "epochs_until_converged": ("epochs until converged", ".1f"),
    "epochs_until_converged_validation": ("the same, validation", ".1f"),
}
"""Of phase 2's table: field, head and format."""


UNDERFIT = (
    ": where scikit-learn's logistic regression, fitted to the end on the same features, has the lower error, phase 2 "
    "underfits"
)


def probe_table(results: Results) -> Table:
    """Phase 2, on several layers, frozen and not.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    rows = []
    # without errors the subset of SVHN has fewer columns
    columns = {key: both for key, both in PROBE_COLUMNS.items() if results.dataset != SUBSET or key not in ERRORS}
    for part in PHASE_2:
        if results.of(part):
            ways = {key: ("test_error",) if key == "test_error" else ("extra", key) for key in columns}
            numbers = {key: measured(results, part, *ways[key]) for key in columns}
            shown = {key: (_counted if key == "features" else _show) for key in columns}
            cells = (shown[key](numbers[key], form) for key, (_, form) in columns.items())
            rows.append((PARTS[part], *cells, _only(results.of(part), "epochs")))
    note = (
        "A linear classifier on features of the frozen network, with the paper's learning rate 2e-4. Converged: "
        "training (validation) accuracy within 0.1 points of the last, which need not be the best there is"
        f"{'' if results.dataset == SUBSET else UNDERFIT}. {MEAN.capitalize()}."
    )
    note += _not_run(results, PHASE_2)
    return Table("probe", "Phase 2", note, ("", *(head for head, _ in columns.values()), "epochs"), tuple(rows))


def exits_table(results: Results) -> Table:
    """The multi-exit network: error and cost by the confidence that lets an image leave early.

    Args:
        results: Of a run.

    Returns:
        The table.
    """
    if results.dataset == SUBSET:
        return Table("exits", "", "", (), ())
    exits = [result.extra.get("exits") or [] for result in results.of("multi_exit")]
    rows = []
    for leave in zip(*exits, strict=False):
        errors, adds = (Measured(tuple(float(at[key]) for at in leave)) for key in ("error", "multiply_adds"))
        rows.append((_plain(leave[0]["threshold"]), errors.show(), adds.show(".3g", 1e6)))
    note = (
        "An image leaves at the first exit that is at least as sure as the threshold; multiply-adds are means over "
        f"the test images. {MEAN.capitalize()}."
    )
    heads = ("threshold", "test error (%)", "multiply-adds, inference (M)")
    return Table("exits", "Multi-exit network", note, heads, tuple(rows))
