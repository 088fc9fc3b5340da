"""Curves over a training: several values at each point, some of which end before the others."""

from collections.abc import Mapping, Sequence

Points = Sequence[tuple[int, Mapping[str, float]]]
"""Place on the axis, such as training batches done or the number of an epoch, and values by curve."""


def curves_in(points: Points) -> list[str]:
    """Name the curves that have a point anywhere, in the order of their first.

    Args:
        points: Of all curves.

    Returns:
        Their names.

    Example:
        >>> curves_in([(1, {"k3": 0.5, "head": 0.4}), (2, {"head": 0.3})])
        ['k3', 'head']
    """
    return list(dict.fromkeys(name for _, values in points for name in values))


def curve(name: str, points: Points) -> tuple[list[int], list[float]]:
    """Pick out one curve; a learner that is pruned has one until then.

    Args:
        name: Of the curve.
        points: Of all curves.

    Returns:
        Its places on the axis, and its values there.

    Example:
        >>> curve("k3", [(1, {"k3": 0.5, "head": 0.4}), (2, {"head": 0.3})])
        ([1], [0.5])
    """
    places: list[int] = []
    values: list[float] = []
    for place, value_by_name in points:
        if name in value_by_name:
            places.append(place)
            values.append(value_by_name[name])
    return places, values


def marked_every(count: int) -> int:
    """Tell how many points lie from one marker to the next: there are about twelve on a curve.

    Args:
        count: Points of the curve.

    Returns:
        At least 1.
    """
    return max(1, count // 12)
