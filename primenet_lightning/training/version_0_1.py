"""What version 0.1 called otherwise: refused where a user writes it, translated where a file of that version has it."""

from collections.abc import Mapping
from typing import Any

BACKWARD = {"block": "stage", "capsule": "learner", "fused": "batch"}
"""Values of ``backward`` of version 0.1, and what they are called now."""


def translated_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Say the options of a model of version 0.1 in today's words.

    Args:
        options: By name, from a checkpoint or a ``config.yaml``; those of today stay as they are.

    Returns:
        Today's.

    Example:
        >>> translated_options({"depth": 2, "update": "immediate", "backward": "block", "overlap": False})
        {'depth': 2, 'backward': 'stage', 'exchange': 'stage', 'step': 'stage'}
    """
    translated = dict(options)
    update = translated.pop("update", None)
    overlap = translated.pop("overlap", None)
    backward = translated.get("backward")
    if isinstance(backward, str) and backward in BACKWARD:
        translated["backward"] = BACKWARD[backward]
    if overlap is not None:
        translated["exchange"] = "stage" if overlap else "batch"
    if update is not None:
        translated["step"] = "stage" if update == "immediate" else "batch"
    if update == "immediate":
        translated["exchange"] = "stage"
    return translated
