"""Measures an edit: base and erased paint the same probes, a detector reads both.

results = measure(painter, edit, task, detector)
results.erased["valid"].percent
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from ea_jax import painter as painting
from ea_jax.edits import Edit
from ea_jax.evaluate import probes as probing
from ea_jax.evaluate.metrics import Metric, Rate
from ea_jax.evaluate.probes import Detector, Reading
from ea_jax.evaluate.task import Task
from ea_jax.painter import Painter
from ea_jax.runtime.cache import cache_file, keep_json, kept_json
from ea_jax.runtime.fingerprint import checksum, fingerprint
from ea_jax.runtime.hosts import all_agree

_log = logging.getLogger(__name__)
# Changes when the same pictures would give other readings, or these are kept in another form.
_VERSION = 3


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
      cache: folder where the base's readings are kept; None keeps nothing.
    Raises:
      ValueError: an edit that doesn't fit the model.
      NonFiniteError: a picture holds NaN or Inf.
    """
    both = readings(painter, edit, task, detector, strength=strength, cache=cache)
    rates = {
        name: {metric.name: metric.score(task.probes, found) for metric in task.metrics}
        for name, found in both.items()
    }
    return Results(task.metrics, detector.name, **rates)


def readings(
    painter: Painter,
    edit: Edit,
    task: Task,
    detector: Detector,
    *,
    strength: float | None = None,
    cache: str | Path | None = None,
) -> dict[str, list[Reading]]:
    """What the detector reads in each probe's picture, `base` and `erased`; see `measure`."""
    return {
        "base": _base_readings(painter, task, detector, cache),
        "erased": _readings("erased", painter, task, detector, edit=edit, strength=strength),
    }


def _readings(
    name: str, painter: Painter, task: Task, detector: Detector, **edited: Any
) -> list[Reading]:
    return probing.read(
        task.probes,
        lambda prompts, seeds: painter.paint(prompts, seeds, **edited),
        detector,
        batch=painter.sampling.batch,
        on_batch=_Counter(name, len(task.probes)),
    )


def _base_readings(
    painter: Painter, task: Task, detector: Detector, cache: str | Path | None
) -> list[Reading]:
    """The frozen model's readings; kept, since every erasure of a concept is compared to them."""
    if cache is None or painter.fingerprint is None:
        return _readings("base", painter, task, detector)
    text = painter.text(list(dict.fromkeys(probe.prompt for probe in task.probes)))
    inputs = {
        "version": [_VERSION, painting.VERSION],
        "base": painter.fingerprint,
        "vae": fingerprint(painter.pipeline.load_part("vae")),
        "detector": [detector.name, detector.version],
        "text": checksum(text.t5_BTD, text.pooled_BD),
        "probes": [[probe.prompt, probe.seed] for probe in task.probes],
        **painter.facts(),
    }
    path = cache_file(cache, "readings", inputs, ".json")
    kept = None
    try:
        if path.exists():
            kept = [
                Reading(frozenset((head, label) for head, label in seen), valid, scores)
                for seen, valid, scores in kept_json(path)
            ]
    except (ValueError, OSError, TypeError) as error:
        _log.warning("%s: %s; painting the base again", path, error)
    if all_agree(kept is not None):
        assert kept is not None
        _log.info("read what the base shows from %s", path)
        return kept
    readings = _readings("base", painter, task, detector)
    keep_json(path, [[sorted(one.seen), one.valid, dict(one.scores)] for one in readings])
    return readings


class _Counter:
    """Logs how many pictures are judged, at every doubling and at the end."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._next = name, total, 1

    def __call__(self, done: int) -> None:
        if done >= self._next or done == self._total:
            _log.info("%s: %d of %d pictures judged", self._name, done, self._total)
            self._next = 2 * done
