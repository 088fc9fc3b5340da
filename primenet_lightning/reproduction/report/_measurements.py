"""Numbers measured with several seeds, and what chance makes of them."""

import math
import statistics
from dataclasses import dataclass

from primenet_lightning.reproduction.report._wording import written
from primenet_lightning.runs.interval import Z
from primenet_lightning.runs.interval import wilson as wilson


@dataclass(frozen=True)
class Measured:
    """One number, measured with several seeds; nothing was measured where there are none, and nothing is shown."""

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
        """Write it: mean, spread if there is one, both over ``scale``, a unit, and the number of seeds.

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
        """Write what is counted: as one number, if it is the same with all seeds."""
        if len({*self.values}) == 1:
            return written(self.mean / scale, form)
        return self.show(form, scale)


def noise(ours: Measured, theirs: Measured, images: int | None, times: float = 1.0) -> float:
    r"""Tell how far apart two numbers may lie by chance: 1.96 standard errors of ``ours - times * theirs``.

    With shares of images :math:`p` and :math:`q` (means over the seeds, in %), factor :math:`f`, :math:`n` images and
    :math:`s` common seeds

    .. math:: 1.96 \sqrt{\frac{p (100 - p) + f^2 q (100 - q)}{n} + \frac{\operatorname{var}_k(p_k - f q_k)}{s}} .

    More seeds do not lessen the first term, since all see the same images; a single one has no second term. Numbers
    that are no shares have no first term; their ``images`` are None.

    Example:
        >>> round(noise(Measured((50.0,)), Measured((50.0,)), 5000), 2)
        1.96
    """
    p, q = ours.mean, theirs.mean
    of_images = (p * (100 - p) + times**2 * q * (100 - q)) / images if images else 0.0
    spread = difference(ours, theirs, times).spread or 0.0
    return Z * math.sqrt(max(0.0, of_images) + spread**2 / len(ours.values))


def difference(ours: Measured, theirs: Measured, times: float = 1.0) -> Measured:
    """Subtract ``times * theirs`` seed by seed."""
    return Measured(tuple(a - times * b for a, b in zip(ours.values, theirs.values, strict=True)))
