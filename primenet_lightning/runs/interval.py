"""What chance makes of a share that was counted."""

import math
import statistics

Z = statistics.NormalDist().inv_cdf(0.975)
"""Standard errors on either side of an interval of 95 %."""


def wilson(percent: float, count: int) -> tuple[float, float]:
    """Tell the 95 % interval of a share by Wilson's formula.

    Args:
        percent: The share, from 0 to 100.
        count: Of how many.

    Returns:
        Its ends, in percent.

    Example:
        >>> [round(end, 2) for end in wilson(50.0, 100)]
        [40.38, 59.62]
    """
    share = percent / 100
    middle = share + Z * Z / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    low, high = (middle - half) / (1 + Z * Z / count), (middle + half) / (1 + Z * Z / count)
    return 100 * max(0.0, low), 100 * min(1.0, high)
