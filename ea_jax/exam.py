"""The examination of a run on flux-tiny: its probes, the judge, and the words they may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ea_jax.concepts.spans import occurrences
from ea_jax.evaluate.probes import Detector, Probe
from ea_jax.flux import hub
from ea_jax.settings import Settings
from ea_jax.tiny import vocabulary
from ea_jax.tiny.detector import JudgeDetector
from ea_jax.tiny.probes import probes_for


@dataclasses.dataclass(frozen=True)
class Exam:
    """What measures an erasure.

    Attributes:
      probes: prompts, seeds and questions.
      words: held-out words, which no training may use.
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
    words = settings.concept
    trained = (*words.preserve_prompts, *words.no_relation, *words.far, *words.mid)
    unseen = [
        name for name in vocabulary.CONCEPTS if any(occurrences(text, name) for text in trained)
    ]
    return Exam(
        probes=probes_for(words.word, pictures=pictures, unseen=unseen),
        words=concept.held_out,
        detector=JudgeDetector.load(judge),
    )
