"""When a process of a pipeline ends, all end, and one of them says so."""

import os
import sys
import time

import torch
from torch import distributed as dist

from primenet_lightning.pipeline.channel import ProcessLost
from primenet_lightning.pipeline.section import PipelineSection

KEY = "primenet_lightning/pipeline/lost"
"""Under which the process that was lost first is noted for rank 0."""

GRACE = 1.0
"""Seconds in which others can still ask rank 0 whether it is there."""

SIGNS = ("gloo", "Connection", "connection", "Broken pipe", "NCCL")
"""What torch says when another process has gone."""


class Watch:
    """Answers errors that come of another process's end.

    Args:
        section: Of this process.
        rank: Of this process.
    """

    def __init__(self, section: PipelineSection, rank: int) -> None:
        self.section = section
        self.rank = rank

    def answer(self, error: BaseException) -> None:
        """Tell of a lost process once: on rank 0, or where rank 0 is lost, on its neighbour.

        All other processes end here, without a word.

        Args:
            error: What has ended this process's work.

        Raises:
            ProcessLost: If a process is lost, and it is this one's turn to say so.
        """
        if not _is_of_a_loss(error):
            return
        lost = error.rank if isinstance(error, ProcessLost) else None
        if self.rank == 0:
            time.sleep(GRACE)
        first = self._first_lost(lost)
        if self.rank == 0 or (first == 0 and self.rank == self._neighbour_of_0):
            raise ProcessLost(first, self._stages_of(first)) from None
        sys.stderr.flush()
        os._exit(1)

    @property
    def _neighbour_of_0(self) -> int:
        ranks = self.section.line.ranks
        return ranks[ranks.index(0) - 1] if 0 in ranks else -1

    def _first_lost(self, lost: int | None) -> int | None:
        """Which process was lost first; without rank 0, which keeps what is noted, it was that one."""
        try:
            store = dist.distributed_c10d._get_default_store()
            if lost is None:
                first = store.get(KEY).decode() if store.check([KEY]) else ""
            else:
                first = store.compare_set(KEY, "", str(lost)).decode()
        except (RuntimeError, torch.distributed.DistError):
            return 0
        return int(first) if first else lost

    def _stages_of(self, rank: int | None) -> str:
        """Which stages a process had."""
        ranks = self.section.line.ranks
        if rank not in ranks:
            return ""
        position = ranks.index(rank)
        ends = [*self.section.begins[1:], len(self.section.network.stages)]
        stages = self.section.network.stages[self.section.begins[position] : ends[position]]
        return f"{stages[0].name} to {stages[-1].name}" if len(stages) > 1 else stages[0].name


def _is_of_a_loss(error: BaseException) -> bool:
    if isinstance(error, ProcessLost | dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
