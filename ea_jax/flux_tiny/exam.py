"""The examination of a run on flux-tiny: its probes, the judge, and the words they may use."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from ea_jax.concepts.forms import mentions
from ea_jax.evaluate.probes import Detector, Probe
from ea_jax.flux import hub
from ea_jax.flux_tiny import vocabulary
from ea_jax.flux_tiny.detector import JudgeDetector
from ea_jax.flux_tiny.probes import probes_for
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Exam:
    """What measures an erasure.

    Attributes:
      probes: prompts, seeds and questions.
      words: synonyms and concepts that it asks for, which no training may use.
      detector: reads the pictures; None if nothing is measured.
    """

    probes: Sequence[Probe] = ()
    words: Sequence[str] = ()
    detector: Detector | None = None


def exam_for(settings: Settings) -> Exam:
    """The exam of a run, empty where its model comes without a judge or none is asked for.

    Raises:
      ValueError: the model has a judge, but its world doesn't know the concept.
    """
    pictures = settings.sample.eval_pictures
    if not pictures:
        return Exam()
    judge = hub.locate(settings.model.path, ["judge/*"], settings.model.revision) / "judge"
    if not judge.is_dir():
        return Exam()
    concept = vocabulary.concept(settings.concept.word)
    trained = [name for name in vocabulary.CONCEPTS if _in_any(name, _texts(settings))]
    if concept.near in trained:
        _log.warning("training uses %r, so Acc_near is not measured", concept.near)
    probes = probes_for(concept.name, pictures=pictures, trained=trained)
    asked = {
        label
        for probe in probes
        for metric, answers in probe.questions
        if metric in ("Acc_ir", "Acc_near")
        for _, label in answers
    }
    return Exam(
        probes=probes,
        words=(*concept.held_out, *sorted(asked)),
        detector=JudgeDetector.load(judge),
    )


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
