"""How a claim is judged, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from primenet_lightning.reproduction.report.finding import CannotBeTested
from primenet_lightning.reproduction.report.sentences import say
from primenet_lightning.reproduction.results import Results

Answer = Literal["confirmed", "not confirmed", "cannot be tested here"]


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


class Judgement(NamedTuple):
    """What a rule says.

    Attributes:
        holds: Whether the claim does; None where what was measured does not tell.
        measured: In words.
        facts: What the sentence that gives the reasons names.
    """

    holds: bool | None
    measured: str
    facts: dict[str, Any]


ANSWERS: dict[bool | None, Answer] = {True: "confirmed", False: "not confirmed", None: "cannot be tested here"}


@dataclass(frozen=True)
class Rule:
    """How a claim is judged.

    Attributes:
        claim: In a few words.
        where: In the paper.
        claimed: The paper's number; a mapping has it by data set.
        judge: Raises `CannotBeTested` where numbers are missing.
        sentence: That gives the reasons, of ``templates/verdicts.j2``.
    """

    claim: str
    where: str
    claimed: str | dict[str, str]
    judge: Callable[[Results], Judgement]
    sentence: str

    def __call__(self, results: Results) -> Verdict:
        """Judge."""
        claimed = self.claimed if isinstance(self.claimed, str) else self.claimed.get(results.dataset, "")
        try:
            holds, measured, facts = self.judge(results)
            why = say("verdicts", self.sentence, holds=holds, **facts)
        except CannotBeTested as reason:
            holds, measured = None, ""
            why = f"{str(reason)[0].upper()}{str(reason)[1:]}."
        return Verdict(self.claim, self.where, claimed, measured, ANSWERS[holds], why)
