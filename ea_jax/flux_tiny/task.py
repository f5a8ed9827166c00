"""The task of a run on flux-tiny: its probes, the words that they ask for, and the judge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ea_jax.concepts.forms import mentions
from ea_jax.evaluate import metrics
from ea_jax.evaluate.task import Task
from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.detector import JudgeDetector
from ea_jax.flux_tiny.probes import probes_for
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)


def task_for(settings: Settings, judge: Path) -> tuple[Task, JudgeDetector]:
    """The task of a run and its detector.

    Args:
      settings: of the run.
      judge: folder of the judge that comes with its model.
    Raises:
      ValueError: the world doesn't know the concept, or there is no judge in the folder.
    """
    concept = vocabulary.concept(settings.concept.word)
    trained = [name for name in vocabulary.CONCEPTS if _in_any(name, _texts(settings))]
    if concept.near in trained:
        _log.warning("training uses %r, so %s is not measured", concept.near, metrics.NEAREST.name)
    probes = probes_for(concept.name, pictures=settings.sample.eval_pictures, trained=trained)
    others = {metrics.OTHERS.name, metrics.NEAREST.name}
    asked = {
        label
        for probe in probes
        for metric, answers in probe.questions
        if metric in others
        for _, label in answers
    }
    task = Task("flux-tiny", tuple(probes), metrics.METRICS, (*concept.held_out, *sorted(asked)))
    return task, JudgeDetector.load(judge)


def _texts(settings: Settings) -> list[str]:
    """Everything that the config itself gives to training."""
    chosen = settings.concept
    anchor = {"replaced": chosen.neutral, "sentence": chosen.anchor_sentence}.get(chosen.anchor)
    return [
        *chosen.sentences,
        *chosen.preserve_prompts,
        *chosen.synonyms,
        *chosen.no_relation,
        *chosen.far,
        *chosen.mid,
        *filter(None, [anchor]),
    ]


def _in_any(name: str, texts: Sequence[str]) -> bool:
    return any(mentions(text, name) for text in texts)
