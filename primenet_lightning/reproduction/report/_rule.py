"""What a rule is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from primenet_lightning.reproduction._results import Results


class CannotBeTested(Exception):
    """A claim that these results say nothing about; the message says why."""


class Judgement(NamedTuple):
    """What a rule says: whether the claim holds, None where what was measured does not tell."""

    holds: bool | None
    measured: str
    facts: dict[str, Any]
    """What the sentence that gives the reasons names."""


class Rule(NamedTuple):
    """How a claim is judged."""

    claim: str
    where: str
    claimed: str | dict[str, str]
    """The paper's number; a mapping has it by data set."""
    judge: Callable[[Results], Judgement]
    sentence: str
    """That gives the reasons, of ``templates/verdicts.j2``."""
