"""Counts, rates and their intervals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

_Z95 = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Rate:
    """Pictures that show something, out of those asked.

    Attributes:
      hits: pictures that do, 0 to `total`.
      total: pictures asked, 0 where a metric does not apply.
    """

    hits: int
    total: int

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.hits + other.hits, self.total + other.total)

    @property
    def percent(self) -> float:
        """Share of hits in percent; NaN without pictures."""
        return 100.0 * self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, in percent; (NaN, NaN) without pictures."""
        if not self.total:
            return math.nan, math.nan
        n, p = self.total, self.hits / self.total
        centre = p + _Z95**2 / (2 * n)
        half = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n))
        scale = 100.0 / (1 + _Z95**2 / n)
        return max(0.0, scale * (centre - half)), min(100.0, scale * (centre + half))

    def as_json(self) -> dict[str, Any]:
        """Numerator, denominator, percent and interval; rounded to a hundredth of a percent."""
        if not self.total:
            return {"hits": 0, "total": 0, "percent": None, "interval": None}
        low, high = self.interval
        return {
            "hits": self.hits,
            "total": self.total,
            "percent": round(self.percent, 2),
            "interval": [round(low, 2), round(high, 2)],
        }
