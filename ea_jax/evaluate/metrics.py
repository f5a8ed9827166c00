"""Metrics: what is counted, which way is better, and the sentence that a report shows.

The names are those of the paper's Table 6 and their like. A probe's questions name the metric that
they count for; `METRICS` is the one list of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ea_jax.evaluate.probes import Probe, Reading

Z95 = 1.959964  # two-sided 95 % quantile of the normal distribution


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
        centre = p + Z95**2 / (2 * n)
        half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
        scale = 100.0 / (1 + Z95**2 / n)
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


Score = Callable[[Sequence[Probe], Sequence[Reading]], Rate]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a report.

    Attributes:
      name: under which it stands in results and tables, and in a probe's questions.
      better: whether an erasure wants it low or high.
      meaning: what is counted, for a reader.
      score: counts it over probes and their readings.
    """

    name: str
    better: Literal["low", "high"]
    meaning: str
    score: Score

    def worst(self, values: Sequence[float]) -> float:
        """The worst of some runs' numbers."""
        return max(values) if self.better == "low" else min(values)


def asked(name: str, better: Literal["low", "high"], meaning: str) -> Metric:
    """A metric of the pictures whose probes ask it: those that show all answers are hits."""

    def score(probes: Sequence[Probe], readings: Sequence[Reading]) -> Rate:
        hits = [
            # What is not a picture shows nothing, whatever a detector may say of it.
            reading.valid and answers <= reading.seen
            for probe, reading in zip(probes, readings, strict=True)
            for metric, answers in probe.questions
            if metric == name
        ]
        return Rate(sum(hits), len(hits))

    return Metric(name, better, meaning, score)


def _count_valid(probes: Sequence[Probe], readings: Sequence[Reading]) -> Rate:
    return Rate(sum(reading.valid for reading in readings), len(probes))


CONCEPT = asked("Acc_e", "low", "the concept is still there (low is good)")
SYNONYMS = asked("Acc_g", "low", "so are pictures of its held-out synonyms (low is good)")
OTHERS = asked("Acc_ir", "high", "other concepts are still themselves")
NEAREST = asked("Acc_near", "high", "so are the nearest ones (kept by name)")
REST = asked("Acc_rest", "high", "what else the concept's prompts ask for is there")
VALID = Metric("valid", "high", "a clean picture: not blank, noise or broken", _count_valid)

# The two halves of Acc_ir where a method keeps a vocabulary: the second is the figure.
KEPT_OTHERS = asked("Acc_ir kept", "high", "of these, words whose outputs were kept by name")
LEFT_OTHERS = asked("Acc_ir left", "high", "of these, words that nothing kept")

# In the order of a report.
METRICS = (CONCEPT, SYNONYMS, OTHERS, NEAREST, REST, VALID)
