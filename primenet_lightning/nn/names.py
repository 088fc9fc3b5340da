"""The names of learners: ``block0.k3`` is capsule ``k3`` of stage ``block0``, and ``head`` is a stage by itself."""

from collections.abc import Sequence
from typing import NamedTuple

HEAD = "head"
"""Name of the last stage, and of its one learner."""

TOTAL = "total"
"""What the sum of the losses along the route is called beside the learners' own losses."""


class LearnerName(NamedTuple):
    """A learner's full name in its two parts.

    Attributes:
        stage: Name of its stage; empty in a foreign model.
        learner: Its name within the stage; empty where the stage has one learner only.

    Example:
        >>> LearnerName.parse("block0.k3"), LearnerName.parse("head")
        (LearnerName(stage='block0', learner='k3'), LearnerName(stage='head', learner=''))
        >>> str(LearnerName("block1", "k5")), str(LearnerName("head"))
        ('block1.k5', 'head')
    """

    stage: str
    learner: str = ""

    @classmethod
    def parse(cls, name: str) -> "LearnerName":
        """Take a full name apart at its first dot.

        Args:
            name: ``"block0.k3"``, ``"layer2"``, ``"head"``.

        Returns:
            Its parts.
        """
        stage, _, learner = name.partition(".")
        return cls(stage, learner)

    @property
    def short(self) -> str:
        """The name where the stage needs no mention: the learner's, or of a stage by itself the stage's."""
        return self.learner or self.stage

    def __str__(self) -> str:
        if self.stage and self.learner:
            return f"{self.stage}.{self.learner}"
        return self.short


def stages_of(names: Sequence[str]) -> list[str]:
    """Tell to which stages learners belong.

    Args:
        names: Full names.

    Returns:
        Names of the stages, each once, in the order in which they come.

    Example:
        >>> stages_of(["block0.k3", "block0.k5", "block1.k3", "head"])
        ['block0', 'block1', 'head']
    """
    return list(dict.fromkeys(LearnerName.parse(name).stage for name in names))


def learners_of(stage: str, names: Sequence[str]) -> list[str]:
    """Pick out the learners of one stage.

    Args:
        stage: Its name.
        names: Full names of learners of any stage.

    Returns:
        Those of this stage, in order.

    Example:
        >>> learners_of("block0", ["block0.k3", "block0.k5", "block1.k3", "head"])
        ['block0.k3', 'block0.k5']
    """
    return [name for name in names if LearnerName.parse(name).stage == stage]
