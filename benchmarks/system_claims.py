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
    """Two errors to compare, in %.

    Attributes:
        claimed: Of what is claimed to be better.
        other: Of what it is compared with.
    """

    claimed: float
    other: float

    @property
    def verdict(self) -> str:
        """Whether the claimed one is better, by more than two standard errors of a difference on the test images."""
        variance = sum(error / 100 * (1 - error / 100) / TEST_IMAGES for error in self)
        gain, noise = self.other - self.claimed, 200 * math.sqrt(variance)
        if abs(gain) <= noise:
            return "too small to tell"
        return "confirmed" if gain > 0 else "not confirmed"


class Claim(NamedTuple):
    """What a paper says of its system.

    Attributes:
        system: Whose paper.
        words: The claim.
        needs: Names of the rows.
        pair: Gives the two errors.
    """

    system: str
    words: str
    needs: tuple[str, ...]
    pair: Callable[[Rows], Pair]


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
        if all(name in by_name for name in claim.needs):
            pair = claim.pair(by_name)
            claimed, other = round(pair.claimed, 2), round(pair.other, 2)
            judged.append(Judged(claim.system, claim.words, claimed, other, pair.verdict))
    return judged


def _answers(claimed: str, other: str) -> Callable[[Rows], Pair]:
    """Compare the answers of two rows."""

    def pair(rows: Rows) -> Pair:
        return Pair(*(statistics.mean(rows[name]["errors"]) for name in (claimed, other)))

    return pair


def _exits(claimed: str, other: str) -> Callable[[Rows], Pair]:
    """Compare the exits of two rows, in the mean."""

    def pair(rows: Rows) -> Pair:
        means = [statistics.mean(point["error"] for point in rows[name]["points"]) for name in (claimed, other)]
        return Pair(*means)

    return pair


def _pruning(rows: Rows) -> Pair:
    """RNP as it learned, beside its network at the width of the same cost for all images."""
    (own,) = (point for point in rows["RNP"]["curve"] if point["setting"] == 0)
    widths = rows["RNP"]["points"]
    costs = [point["multiply_adds"] for point in widths]
    return Pair(own["error"], float(np.interp(own["multiply_adds"], costs, [point["error"] for point in widths])))


def _stopping(rows: Rows) -> Pair:
    """DT-RAM at the threshold that held-out images chose, beside as many glimpses for all."""
    row = rows["DT-RAM"]
    (own,) = (point for point in row["curve"] if point["setting"] == row["chosen"][0])
    numbers = range(1, len(row["fixed"]) + 1)
    return Pair(own["error"], float(np.interp(own["steps"], numbers, row["fixed"])))


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
        "and as good as, or better than, the dense network of 2.8 times the cost",
        ("CondenseNet-86", "CondenseNet-86, dense"),
        _answers("CondenseNet-86", "CondenseNet-86, dense"),
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
    Claim("RNP", "its agent is better than one width of the same cost for all images", ("RNP",), _pruning),
    Claim("DT-RAM", "stopping by a policy is better than as many glimpses for all", ("DT-RAM",), _stopping),
)
"""In the order of table 2's systems on the page."""
