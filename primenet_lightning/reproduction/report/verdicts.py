"""Which of the paper's claims hold: each judged by one rule, from what was measured."""

from primenet_lightning.reproduction.report.rule import Verdict
from primenet_lightning.reproduction.report.rules_figures import FIGURE_RULES
from primenet_lightning.reproduction.report.rules_sections import SECTION_RULES
from primenet_lightning.reproduction.report.rules_tables import TABLE_RULES
from primenet_lightning.reproduction.results import Results

RULES = (*TABLE_RULES, *FIGURE_RULES, *SECTION_RULES)
"""All claims with their rules."""


def judge(results: Results) -> list[Verdict]:
    """Judge all claims.

    Args:
        results: What was measured; any part may be missing.

    Returns:
        One verdict a claim, in the order of the paper's tables, figures and sections.
    """
    return [rule(results) for rule in RULES]
