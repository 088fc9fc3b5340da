"""What a training step tells the callbacks, and what a process may be asked for."""

from typing import TypedDict

from torch import Tensor

REQUESTS = ("interrupt", "terminate", "requeue")
"""What a process may be asked to do, by a signal, after the batch under way."""


class StepOutput(TypedDict):
    """What a training step tells the callbacks; host numbers, so that nobody has to wait for the device again.

    They are the same on every rank.

    Attributes:
        loss: The total, a scalar on the CPU without a graph, where Lightning's tools look for it.
        losses: Means over the global batch by name, and under ``"total"`` those of the learners whose maps went on,
            the head's included (section 5.1).
        route: Whose map went on, one index a stage that chooses.
        requests: What any rank had been asked for when the batch began, of `REQUESTS`; on one process, when it ended.
    """

    loss: Tensor
    losses: dict[str, float]
    route: list[int]
    requests: list[str]
