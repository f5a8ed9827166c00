"""The tasks of a run on flux-tiny: probes, the words that they ask for, and the judge."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from ea_jax.concepts import choose, kept_words, rows
from ea_jax.concepts.forms import AnyOf
from ea_jax.concepts.lexicon import World
from ea_jax.evaluate import metrics
from ea_jax.evaluate.probes import Answers
from ea_jax.evaluate.task import Classes, People, Task
from ea_jax.flux_tiny import phrases, vocabulary
from ea_jax.flux_tiny.detector import JudgeDetector
from ea_jax.flux_tiny.lexicon import Vocabulary
from ea_jax.flux_tiny.phrases import TinyPhrases
from ea_jax.flux_tiny.probes import probes_for
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
_SEEDS_APART = 1_000_000


def world() -> World:
    """flux-tiny's: a closed one, since its text encoders have read no other words."""
    return World(Vocabulary(), TinyPhrases(), closed=True)


def classes() -> Classes:
    """Table 6's categories, as far as this world has them."""
    return Classes(vocabulary.PAPER_CONCEPTS, vocabulary.DEVELOPMENT)


def people() -> People:
    """Characters to erase, and others to keep; no setting was chosen on any of them.

    Those that any erasure is trained to keep are erased: what is asked to stay is left to chance.
    """
    unseen = (one.name for one in vocabulary.CHARACTERS if one.name not in phrases.CHARACTERS)
    return People(
        phrases.CHARACTERS, tuple(name for name in unseen if name not in vocabulary.DEVELOPMENT)
    )


def tasks_for(settings: Settings, judge: Path) -> tuple[tuple[Task, ...], JudgeDetector]:
    """A task for each concept of a run, and their detector.

    Args:
      settings: of the run.
      judge: folder of the judge that comes with its model.
    Raises:
      ValueError: the world doesn't know a concept, or there is no judge in the folder.
    """
    known = choose.words(_own_sources(settings), world())
    erased = [vocabulary.concept(one.word) for one in known.concepts]
    texts = _texts(known)
    trained = [name for name in vocabulary.CONCEPTS if _in_any(name, texts)]
    tasks = [_task(concept, erased, trained, settings.sample.eval_pictures) for concept in erased]
    if "embedder" in (settings.method.name, settings.method.plus):
        section = settings.embedder
        wanted = kept_words.Vocabulary(section.vocabulary, section.captions, section.left_out)
        if kept := kept_words.words_of(world(), wanted):
            tasks = [in_halves(task, kept) for task in tasks]
    return tuple(tasks), JudgeDetector.load(judge)


def in_halves(task: Task, kept: Sequence[str]) -> Task:
    """The task with Acc_ir also of words that are kept by name, and of those that aren't."""

    def half(answers: Answers) -> str:
        named = {label for _, label in answers}
        return (metrics.KEPT_OTHERS if named <= {*kept} else metrics.LEFT_OTHERS).name

    probes = [
        dataclasses.replace(
            probe,
            questions=(
                *probe.questions,
                *(
                    (half(answers), answers)
                    for metric, answers in probe.questions
                    if metric == metrics.OTHERS.name
                ),
            ),
        )
        for probe in task.probes
    ]
    both = metrics.KEPT_OTHERS, metrics.LEFT_OTHERS
    return dataclasses.replace(task, probes=tuple(probes), metrics=(*task.metrics, *both))


def task_of(word: str, judge: Path, *, pictures: int, seed: int = 0) -> tuple[Task, JudgeDetector]:
    """The task of a concept by itself, whatever erased it, and its detector.

    Args:
      word: the concept's name.
      judge: folder of the judge.
      pictures: for each metric.
      seed: of scenes and wording; pictures have other seeds then, too.
    Raises:
      ValueError: the world doesn't know the concept, or there is no judge in the folder.
    """
    concept = vocabulary.concept(word)
    probes = tuple(
        dataclasses.replace(probe, seed=probe.seed + seed * _SEEDS_APART)
        for probe in probes_for(concept.name, pictures=pictures, seed=seed)
    )
    task = Task("flux-tiny", concept.name, probes, metrics.METRICS, concept.held_out)
    return task, JudgeDetector.load(judge)


def _task(
    concept: vocabulary.Concept,
    erased: Sequence[vocabulary.Concept],
    trained: Sequence[str],
    pictures: int,
) -> Task:
    others = [other for other in erased if other is not concept]
    if concept.near in trained or any(concept.near == other.name for other in others):
        _log.warning(
            "training uses %r, so %s of %r is not measured",
            *(concept.near, metrics.NEAREST.name, concept.name),
        )
    # What is nearest to another one is kept by its name, so it isn't asked for here.
    trained = [*trained, *(other.near for other in others if other.near != concept.near)]
    probes = probes_for(concept.name, pictures=pictures, trained=trained, erased=others)
    # The nearest is kept by its name; what is held out of it are its prompts here, and its seeds.
    asked = {
        label
        for probe in probes
        for metric, answers in probe.questions
        if metric == metrics.OTHERS.name
        for _, label in answers
    }
    held_out = (*concept.held_out, *sorted(asked))
    return Task("flux-tiny", concept.name, tuple(probes), metrics.METRICS, held_out)


def _own_sources(settings: Settings) -> Settings:
    """The settings without sources outside this world; what those say holds nothing asked for."""
    inside = {"synonym_source": "auto", "irrelevant_source": "auto", "endpoint": None}
    return dataclasses.replace(settings, concept=dataclasses.replace(settings.concept, **inside))


def _texts(known: choose.Words) -> list[str]:
    """Everything that is given to training."""
    return [
        *known.preserve,
        *(text for one in known.concepts for text in rows.plain(one)),
        *(word for one in known.concepts for word in (*one.synonyms, one.neutral or "")),
        *(word for one in known.concepts for words in one.irrelevant for word in words),
    ]


def _in_any(name: str, texts: Sequence[str]) -> bool:
    said = AnyOf((name, "dress") if name == vocabulary.DRESSED.name else (name,))
    return any(said.first(text) for text in texts)
