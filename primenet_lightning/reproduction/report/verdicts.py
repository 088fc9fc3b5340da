"""Which of the paper's claims hold: each judged by one rule, from what was measured."""

from dataclasses import dataclass
from typing import Literal

from primenet_lightning.reproduction._results import Results
from primenet_lightning.reproduction.report._rule import CannotBeTested, Rule
from primenet_lightning.reproduction.report._rules_figures import FIGURE_RULES
from primenet_lightning.reproduction.report._rules_sections import SECTION_RULES
from primenet_lightning.reproduction.report._rules_tables import TABLE_RULES
from primenet_lightning.reproduction.report._wording import capitalised, say

Answer = Literal["confirmed", "not confirmed", "cannot be tested here"]

ANSWERS: dict[bool | None, Answer] = {True: "confirmed", False: "not confirmed", None: "cannot be tested here"}

RULES = (*TABLE_RULES, *FIGURE_RULES, *SECTION_RULES)
"""All claims with their rules."""


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


def judge(results: Results) -> list[Verdict]:
    """Judge all claims.

    Args:
        results: What was measured; any part may be missing.

    Returns:
        One verdict a claim, in the order of the paper's tables, figures and sections.
    """
    return [_verdict(rule, results) for rule in RULES]


def _verdict(rule: Rule, results: Results) -> Verdict:
    claimed = rule.claimed if isinstance(rule.claimed, str) else rule.claimed.get(results.dataset, "")
    try:
        holds, measured, facts = rule.judge(results)
        why = say("verdicts", rule.sentence, holds=holds, **facts)
    except CannotBeTested as reason:
        holds, measured = None, ""
        why = f"{capitalised(str(reason))}."
    return Verdict(rule.claim, rule.where, claimed, measured, ANSWERS[holds], why)
