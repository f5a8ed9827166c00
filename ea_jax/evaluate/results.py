"""Measures an edit: base and erased paint the same probes, a detector reads both.

results = measure(painter, edit, task, detector)
results.erased["valid"].percent
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from ea_jax.edits import Edit
from ea_jax.evaluate import readings
from ea_jax.evaluate.metrics import Metric, Rate
from ea_jax.evaluate.probes import Detector, Reading
from ea_jax.evaluate.task import Task
from ea_jax.painter import Painter


@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
      metrics: what was counted, in order.
      detector: its name.
      base, erased: each metric's rate, by its name.
    """

    metrics: tuple[Metric, ...]
    detector: str
    base: dict[str, Rate]
    erased: dict[str, Rate]

    def __add__(self, other: Results) -> Results:
        """Counts of two measurements with the same metrics and detector, together."""
        sums = [
            {name: mine[name] + theirs[name] for name in mine}
            for mine, theirs in ((self.base, other.base), (self.erased, other.erased))
        ]
        return Results(self.metrics, self.detector, *sums)


def measure(
    painter: Painter,
    edit: Edit,
    task: Task,
    detector: Detector,
    *,
    strength: float | None = None,
    cache: str | Path | None = None,
) -> Results:
    """Measures base and erased with the same prompts and seeds.

    Args:
      painter: with the task's prompts encoded, or encoders loaded.
      edit: of adapters, whole kernels, or both.
      task: what is asked.
      detector: reads the pictures.
      strength: None takes the edit's recommended one, or 1.
      cache: folder where readings are kept; None keeps nothing.
    Raises:
      ValueError: an edit that doesn't fit the model.
      NonFiniteError: a picture holds NaN or Inf.
    """
    both = both_readings(painter, edit, task, detector, strength=strength, cache=cache)
    rates = {
        name: {metric.name: metric.score(task.probes, found) for metric in task.metrics}
        for name, found in both.items()
    }
    return Results(task.metrics, detector.name, **rates)


def both_readings(
    painter: Painter,
    edit: Edit,
    task: Task,
    detector: Detector,
    *,
    strength: float | None = None,
    cache: str | Path | None = None,
) -> dict[str, list[Reading]]:
    """What the detector reads in each probe's picture, `base` and `erased`; see `measure`."""
    read = functools.partial(readings.read, painter, task.probes, detector, cache=cache)
    return {"base": read(name="base"), "erased": read(name="erased", edit=edit, strength=strength)}
