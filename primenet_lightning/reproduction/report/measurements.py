"""Numbers measured with several seeds: how they are looked up, compared and written."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from primenet_lightning.paper import SUBSET
from primenet_lightning.reproduction.results import Result, Results

ERRORS = ("test_error", "validation_error", "routings", "logistic_test_error", "phase1_test_error", "exits")
"""Fields of a result that say how many images are told wrongly."""

MEAN = "mean ± sample standard deviation over the seeds (their number)"
"""What `Measured.show` writes."""

Z = statistics.NormalDist().inv_cdf(0.975)
"""Standard errors on either side of an interval of 95 %."""


@dataclass(frozen=True)
class Measured:
    """One number, measured with several seeds; nothing was measured where there are none, and nothing is shown.

    Attributes:
        values: One a seed, by seed.
    """

    values: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def mean(self) -> float:
        """Mean over the seeds; not a number where a seed's is none, or where nothing was measured."""
        return statistics.fmean(self.values) if self.values and self._finite else math.nan

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 and self._finite else None

    @property
    def _finite(self) -> bool:
        return all(map(math.isfinite, self.values))

    def show(self, form: str = ".2f", scale: float = 1.0, unit: str = "") -> str:
        """Write it: mean, spread if there is one, and the number of seeds.

        Args:
            form: Of mean and spread.
            scale: What both are divided by.
            unit: Put behind them.

        Returns:
            The text.

        Example:
            >>> Measured((1.0, 2.0, 3.0)).show(unit=" %"), Measured((7e6,)).show(".1f", 1e6), Measured().show()
            ('2.00 ± 1.00 % (3)', '7.0 (1)', '')
        """
        if not self.values:
            return ""
        if not self._finite:
            return f"not finite ({len(self.values)})"
        mean, spread = written(self.mean / scale, form), ""
        if self.spread is not None:
            spread = f" ± {written(self.spread / scale, form.replace('+', ''))}"
        return f"{mean}{spread}{unit} ({len(self.values)})"

    def count(self, form: str, scale: float = 1.0) -> str:
        """Write what is counted: as one number, if it is the same with all seeds.

        Args:
            form: Of the number.
            scale: What it is divided by.

        Returns:
            The text.
        """
        if len({*self.values}) == 1:
            return written(self.mean / scale, form)
        return self.show(form, scale)


def written(value: float, form: str) -> str:
    """Format a number, without the powers of ten that ``".3g"`` has for large ones, and without a negative zero.

    Args:
        value: The number.
        form: As in an f-string.

    Returns:
        The text.

    Example:
        >>> written(1234.5, ".3g"), written(2.602, ".3g"), written(-0.001, "+.2f")
        ('1,234', '2.6', '+0.00')
    """
    text = format(value, ",.0f" if form == ".3g" and abs(value) >= 100 else form)
    if text.startswith("-") and not text.strip("-0."):
        text = format(0.0, form)
    return text


def by_seed(results: Results, part: str, field: str, *keys: str) -> dict[int, float]:
    """Look a number up in all results of a part.

    Args:
        results: All results.
        part: Name of the part.
        field: Of `Result`.
        *keys: Where the field is a mapping: the way to the number.

    Returns:
        By seed, without those that have no such number. Errors on the subset of SVHN are never given.

    Example:
        >>> from primenet_lightning.reproduction.results import Settings
        >>> settings = Settings("digits", "quick", "compact", 1, 30, 20, 200, 32, "32-true")
        >>> one = Result("prime", 0, 30, 1294, True, "Adam", 1.7, 0.7, 359, extra={"routings": {"vote": 2.5}})
        >>> results = Results(settings, {"prime": [one]})
        >>> by_seed(results, "prime", "test_error"), by_seed(results, "prime", "extra", "routings", "vote")
        ({0: 1.7}, {0: 2.5})
    """
    if results.dataset == SUBSET and not {field, *keys}.isdisjoint(ERRORS):
        return {}
    numbers = {}
    for result in results.of(part):
        number = _number_of(result, field, keys)
        if number is not None:
            numbers[result.seed] = number
    return numbers


def _number_of(result: Result, field: str, keys: Sequence[str]) -> float | None:
    value: Any = getattr(result, field)
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return float(value) if isinstance(value, int | float) else None


def measured(results: Results, part: str, field: str, *keys: str) -> Measured:
    """Look a number up as `by_seed` does.

    Args:
        results: All results.
        part: Name of the part.
        field: Of `Result`.
        *keys: Where the field is a mapping: the way to the number.

    Returns:
        All of them; nothing if there is none.
    """
    return Measured(tuple(by_seed(results, part, field, *keys).values()))


def paired(*numbers: dict[int, float]) -> list[Measured]:
    """Keep of several numbers the seeds that all of them have, so that they can be compared seed by seed.

    Args:
        *numbers: By seed.

    Returns:
        One each, all of the same seeds; empty if no seed is common.

    Example:
        >>> paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 5.0, 2: 6.0})
        [Measured(values=(1.0, 3.0)), Measured(values=(5.0, 6.0))]
    """
    common = sorted(set.intersection(*map(set, numbers)))
    if not common:
        return []
    return [Measured(tuple(map(number.__getitem__, common))) for number in numbers]


def noise(ours: Measured, theirs: Measured, images: int | None, times: float = 1.0) -> float:
    r"""Tell how far apart two numbers may lie by chance: 1.96 standard errors of ``ours - times * theirs``.

    With shares of images :math:`p` and :math:`q` (means over the seeds, in %), factor :math:`f`, :math:`n` images and
    :math:`s` common seeds

    .. math:: 1.96 \sqrt{\frac{p (100 - p) + f^2 q (100 - q)}{n} + \frac{\operatorname{var}_k(p_k - f q_k)}{s}} .

    More seeds do not lessen the first term, since all see the same images; a single one has no second term.

    Args:
        ours: By seed.
        theirs: Of the same seeds.
        images: That the shares are of; None where the numbers are no shares, and have no first term.
        times: :math:`f`.

    Returns:
        In the unit of the numbers; 0 where neither term is there.

    Example:
        >>> round(noise(Measured((50.0,)), Measured((50.0,)), 5000), 2)
        1.96
    """
    p, q = ours.mean, theirs.mean
    of_images = (p * (100 - p) + times**2 * q * (100 - q)) / images if images else 0.0
    spread = difference(ours, theirs, times).spread or 0.0
    return Z * math.sqrt(max(0.0, of_images) + spread**2 / len(ours.values))


def difference(ours: Measured, theirs: Measured, times: float = 1.0) -> Measured:
    """Subtract ``times * theirs`` seed by seed.

    Args:
        ours: What is subtracted from.
        theirs: What is subtracted; of the same seeds, in the same order.
        times: How often it is subtracted.

    Returns:
        The differences, one a seed.
    """
    return Measured(tuple(a - times * b for a, b in zip(ours.values, theirs.values, strict=True)))


def wilson(percent: float, count: int) -> tuple[float, float]:
    """Tell the 95 % interval of a share by Wilson's formula.

    Args:
        percent: The share observed, in %.
        count: Of how many.

    Returns:
        Both ends, in %.

    Example:
        >>> [round(end, 2) for end in wilson(50.0, 100)]
        [40.38, 59.62]
    """
    share = percent / 100
    middle = share + Z * Z / (2 * count)
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    low, high = (middle - half) / (1 + Z * Z / count), (middle + half) / (1 + Z * Z / count)
    return 100 * max(0.0, low), 100 * min(1.0, high)


def listed(words: Sequence[str]) -> str:
    """Write a list as in a sentence.

    Args:
        words: Its members.

    Returns:
        These with commas and an "and".

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def between(numbers: Sequence[int]) -> str:
    """Write whole numbers that should all be the same.

    Args:
        numbers: In any order; may be empty.

    Returns:
        The number; both ends if they differ; nothing if there are none.

    Example:
        >>> between([1294, 1294]), between([20, 50]), between([])
        ('1,294', '20 to 50', '')
    """
    if not numbers:
        return ""
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
