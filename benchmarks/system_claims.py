"""What came of the relative claim of each paper of table 2: confirmed, not confirmed, or too small to tell."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TEST_IMAGES = 10_000
"""Of CIFAR-10, and of MNIST."""

Rows = Mapping[str, Mapping[str, Any]]
"""As ``rows-PRECISION.json`` has them, by name."""


class Pair(NamedTuple):
    """Errors to compare, in %, by seed.

    Attributes:
        claimed: Of what is claimed to be better.
        other: Of what it is compared with.
    """

    claimed: Sequence[float]
    other: Sequence[float]

    @property
    def noise(self) -> float:
        """Two standard errors of the mean difference: of the test images, and of seeds where there are several."""
        variance = 0.0
        for errors in self:
            share = statistics.mean(errors) / 100
            variance += 100**2 * share * (1 - share) / TEST_IMAGES
        differences = [one - other for one, other in zip(*self, strict=False)]
        if len(differences) > 1:
            variance += statistics.variance(differences) / len(differences)
        return 2 * math.sqrt(variance)

    def verdict(self, as_good_is_enough: bool = False) -> str:
        """Judge whether the claimed one is better.

        Args:
            as_good_is_enough: Whether it only must not be worse.

        Returns:
            In words; a difference within the noise tells nothing.
        """
        gain = statistics.mean(self.other) - statistics.mean(self.claimed)
        if as_good_is_enough:
            return "confirmed" if gain >= -self.noise else "not confirmed"
        if abs(gain) <= self.noise:
            return "too small to tell"
        return "confirmed" if gain > 0 else "not confirmed"


class Claim(NamedTuple):
    """What a paper says of its system.

    Attributes:
        system: Whose paper.
        words: The claim.
        needs: Names of the rows.
        pair: Gives the errors; None where nothing can be compared.
        as_good_is_enough: Whether it only claims not to be worse.
    """

    system: str
    words: str
    needs: tuple[str, ...]
    pair: Callable[[Rows], Pair | None]
    as_good_is_enough: bool = False


class Judged(NamedTuple):
    """A claim, and what came of it.

    Attributes:
        system: Whose paper.
        words: The claim.
        claimed: Error in % of what is claimed to be better.
        other: Error in % of what it is compared with.
        verdict: In words.
    """

    system: str
    words: str
    claimed: float
    other: float
    verdict: str


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """Judge the claims whose rows are there.

    Args:
        rows: As ``rows-PRECISION.json`` has them.

    Returns:
        One a claim.
    """
    by_name = {row["name"]: row for row in rows}
    judged: list[Judged] = []
    for claim in CLAIMS:
        pair = claim.pair(by_name) if all(name in by_name for name in claim.needs) else None
        if pair is not None:
            claimed, other = (round(statistics.mean(errors), 2) for errors in pair)
            verdict = pair.verdict(claim.as_good_is_enough)
            judged.append(Judged(claim.system, claim.words, claimed, other, verdict))
    return judged


def _answers(claimed: str, other: str) -> Callable[[Rows], Pair]:
    """Compare the answers of two rows."""

    def pair(rows: Rows) -> Pair:
        return Pair(rows[claimed]["errors"], rows[other]["errors"])

    return pair


def _exits(claimed: str, other: str) -> Callable[[Rows], Pair]:
    """Compare the exits of two rows, in the mean."""

    def pair(rows: Rows) -> Pair:
        means = [statistics.mean(point["error"] for point in rows[name]["points"]) for name in (claimed, other)]
        return Pair([means[0]], [means[1]])

    return pair


def _leaving_early(rows: Rows) -> Pair:
    """MSDNet at half of its cost in the mean, beside one exit of that cost for all images."""
    row = rows["MSDNet, sum"]
    (own,) = (point for point in row["curve"] if point["setting"] == 0.5)
    return Pair([own["error"]], [_at_cost(row["points"], own["multiply_adds"])])


def _pruning(rows: Rows) -> Pair:
    """RNP as it learned, beside its network at a width of at most this cost for all images."""
    (own,) = (point for point in rows["RNP"]["curve"] if point["setting"] == 0)
    return Pair([own["error"]], [_at_cost(rows["RNP"]["points"], own["multiply_adds"])])


def _stopping(rows: Rows) -> Pair | None:
    """DT-RAM at the thresholds that held-out images chose, beside as many glimpses for all."""
    row = rows["DT-RAM"]
    if None in row["chosen"]:
        return None
    numbers = range(1, len(row["fixed"]) + 1)
    fixed = [float(np.interp(point["steps"], numbers, row["fixed"])) for point in row["chosen"]]
    return Pair([point["error"] for point in row["chosen"]], fixed)


def _at_cost(points: Sequence[Mapping[str, Any]], multiply_adds: float) -> float:
    """The error between those of two parts; above the dearest part that part's."""
    costs = [point["multiply_adds"] for point in points]
    return float(np.interp(multiply_adds, costs, [point["error"] for point in points]))


EQUILIBRIUM = "MSDNet, equilibrium"

CLAIMS = (
    Claim(
        "CondenseNet",
        "groups that are learned are better than groups that are fixed, at the same cost",
        ("CondenseNet-86", "CondenseNet-86, fixed groups"),
        _answers("CondenseNet-86", "CondenseNet-86, fixed groups"),
    ),
    Claim(
        "CondenseNet",
        "groups that are learned are as good as the dense network of 2.8 times the cost",
        ("CondenseNet-86", "CondenseNet-86, dense"),
        _answers("CondenseNet-86", "CondenseNet-86, dense"),
        as_good_is_enough=True,
    ),
    Claim(
        "MSDNet",
        "images that leave early are better than all at one exit of the same cost",
        ("MSDNet, sum",),
        _leaving_early,
    ),
    Claim(
        "IMTA",
        "gradient equilibrium makes the exits of MSDNet better, in the mean",
        (EQUILIBRIUM, "MSDNet, sum"),
        _exits(EQUILIBRIUM, "MSDNet, sum"),
    ),
    Claim(
        "IMTA",
        "collaboration and distillation make them better still",
        ("IMTA", EQUILIBRIUM),
        _exits("IMTA", EQUILIBRIUM),
    ),
    Claim("ONE", "a branch is better than the same network alone", ("ONE", "ResNet-32"), _answers("ONE", "ResNet-32")),
    Claim("RNP", "its agent is better than one width of at most its cost for all images", ("RNP",), _pruning),
    Claim("DT-RAM", "stopping by a policy is better than as many glimpses for all", ("DT-RAM",), _stopping),
)
"""In the order of table 2's systems on the page."""
