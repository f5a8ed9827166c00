"""Radars: all metrics of an edit or a method on spokes from 0 to 100, further out is better."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

from markupsafe import Markup

from ea_jax.evaluate import metrics
from ea_jax.evaluate.metrics import METRICS, Rate
from ea_jax.exam.page import plots, verdict
from ea_jax.exam.page.folders import Rates

WORST = "worst attack"
# In the radar's order: what is gone, then what is kept.
_NAMES = {
    metrics.CONCEPT.name: verdict.SHORT[metrics.CONCEPT.name],
    metrics.SYNONYMS.name: verdict.SHORT[metrics.SYNONYMS.name],
    WORST: "withstands attacks",
    **{name: verdict.SHORT[name] for name in verdict.KEPT},
}


def spokes(both: Mapping[str, Rates], worst: Rate | None = None) -> dict[str, float]:
    """An edit's metrics from 0 to 100; what should be kept as a share of the base's.

    Args:
      both: rates, {"base": ..., "erased": ...}.
      worst: of attacks on it, if there were any.
    """
    values = {} if worst is None else {WORST: 100 - worst.percent}
    for metric in METRICS:
        rate = both["erased"].get(metric.name)
        if rate is None or not rate.total:
            continue
        if metric.better == "low":
            values[metric.name] = 100 - rate.percent
        elif both["base"][metric.name].hits:
            values[metric.name] = min(100.0, verdict.share(both["base"][metric.name], rate))
    return values


def drawn(series: Mapping[str, Mapping[str, float]], *, label: str) -> Markup | None:
    """A line for each of what `spokes` gave, by its name; None with fewer than three spokes."""
    names = [name for name in _NAMES if any(name in values for values in series.values())]
    if len(names) < 3:
        return None
    lines = {
        name: [values.get(spoke, math.nan) for spoke in names] for name, values in series.items()
    }
    return plots.radar(lines, [textwrap.fill(_NAMES[name], 12) for name in names], label=label)
