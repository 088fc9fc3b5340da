"""What a recipe is: it says what each part of a model learns from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from primenet_lightning.nn.cutting.classifiers import Place
from primenet_lightning.nn.cutting.objectives import Objective

Course = float | Sequence[float]
"""A number for all parts, or one for the first and one for the last that has a local classifier, in between in line."""


class Recipe(ABC):
    """How the parts of a model learn: the objective of each but the last, whose loss is the model's own.

    Args:
        label_smoothing: The share of the targets that is spread over all classes: a number, or that of the first and
            of the last local part, for softer targets early.

    Attributes:
        strictly_local: Whether no gradient crosses from one part to another.

    Example:
        >>> from primenet_lightning.nn.cutting.classifiers import classifier_at
        >>> from primenet_lightning.nn.cutting.objectives import Classified
        >>> class Small(Recipe):  # one's own
        ...     def objective(self, place):
        ...         return Classified(classifier_at({"pooled": {"grid": 1}}, place))
        >>> Small().strictly_local
        True
    """

    strictly_local: ClassVar[bool] = True

    def __init__(self, label_smoothing: Course = 0.0) -> None:
        self.label_smoothing = label_smoothing

    @abstractmethod
    def objective(self, place: Place) -> Objective:
        """Build what one part learns from.

        Args:
            place: Where the part stands.

        Returns:
            The objective, with parameters of its own.
        """

    def smoothing_at(self, place: Place) -> float:
        """Tell how soft the targets of a part are.

        Args:
            place: Where the part stands.

        Returns:
            The share that is spread over all classes.
        """
        return along(self.label_smoothing, place)


def along(course: Course, place: Place) -> float:
    """Look up a number that may change from part to part.

    Args:
        course: A number, or that of the first and of the last part that has a local classifier.
        place: Where the part stands.

    Returns:
        The number there.

    Raises:
        ValueError: If the course has not two ends.

    Example:
        >>> from primenet_lightning.nn.cutting.features import Features
        >>> places = [Place(index, 4, Features((8,), "vectors"), (1, 8, 8), 10) for index in range(3)]
        >>> [along([5, 1], place) for place in places]
        [5.0, 3.0, 1.0]
    """
    if isinstance(course, int | float):
        return float(course)
    if len(course) != 2:
        raise ValueError(f"{list(course)} must be one number, or two: of the first and of the last local part")
    first, last = course
    if place.parts <= 2:
        return float(first)
    return first + (last - first) * place.part / (place.parts - 2)
