"""A task: what an erasure is asked about one concept, and how the answers are counted."""

from __future__ import annotations

import dataclasses

from ea_jax.evaluate.metrics import Metric
from ea_jax.evaluate.probes import Probe


@dataclasses.dataclass(frozen=True)
class Task:
    """What measures an erasure.

    Attributes:
      name: of the world that it belongs to.
      concept: that was erased.
      probes: prompts, seeds and questions.
      metrics: what is counted, in the order of a report.
      held_out: words that it asks for, which no training may use.
    """

    name: str
    concept: str
    probes: tuple[Probe, ...]
    metrics: tuple[Metric, ...]
    held_out: tuple[str, ...]
