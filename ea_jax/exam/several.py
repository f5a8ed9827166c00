"""Several erasures, each of a concept, that a task puts side by side, and their concepts' probes.

They are given (`--edit`), or made for it (`--words`).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ea_jax.arguments import Parser, number, text
from ea_jax.concepts import spans
from ea_jax.erase_command import words_in
from ea_jax.evaluate import metrics, worlds
from ea_jax.evaluate.probes import Answers, Detector, Probe
from ea_jax.evaluate.task import Task
from ea_jax.exam import model, record, trials
from ea_jax.exam.model import Subject
from ea_jax.settings import from_config


@dataclasses.dataclass(frozen=True)
class Erasures:
    """What is compared.

    Attributes:
      subjects: the edit of each concept, at its strength.
      tasks: each concept's probes and metrics.
      detector: reads their pictures.
    """

    subjects: Mapping[str, Subject]
    tasks: Mapping[str, Task]
    detector: Detector


def add_arguments(parser: Parser) -> None:
    """Adds to a command the model, and which erasures: by folder, or by word."""
    model.add_arguments(parser)
    parser.add("--words", rule=text, help="concepts to erase in place of --edit: cat,dog or @FILE")
    parser.add("--method", rule=text, default="", help="preset of those; the model's own if none")
    parser.add("--seed", rule=number(int, low=0), default=0, help="of those")
    parser.add("--pictures", rule=number(int, low=1), default=8, help="of each concept")


def parsed(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """A command's arguments; those of erasures that are made end it beside ones that are given."""
    given = parser.parse_args(arguments)
    parser.forbid("method", "seed", "set", beside="edit")
    return given


def erasures(given: argparse.Namespace, *, at_least: int, task: str) -> Erasures:
    """The erasures of a command; made where they are words.

    The task's folder is taken once all that is asked is known to be sound.

    Args:
      given: the command's arguments.
      at_least: so many.
      task: its name.
    Raises:
      ValueError: neither edits nor words or both, fewer than `at_least`, an edit that doesn't say
        what it erases or erases several concepts, or two of one concept; or as
        `record.claim` and `made`.
    """
    if bool(given.edit) == bool(given.words):
        raise ValueError("give either --edit, once for each erasure, or --words")
    subjects = model.subjects_of(given.edit)[1:]
    words = [concept_of(subject) for subject in subjects] or names_in(given.words, "--words")
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise ValueError(f"two edits erase {twice!r}; give one of them")
    if len(words) < at_least:
        raise ValueError(f"{len(words)} erasures are given; this task needs {at_least} or more")
    # A word that the world lacks is told before anything is made.
    tasks, detector = tasks_of(given, words)
    model.require_sampling(given)
    record.claim(given.out, task, record.asked(given))
    subjects = subjects or [
        Subject(word, model.edit_of(source), source=source)
        for word, source in made(given, words).items()
    ]
    return Erasures(dict(zip(words, subjects, strict=True)), tasks, detector)


def made(
    given: argparse.Namespace, words: Sequence[str], changes: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Sources of erasures by their words, for `model.edit_of`; each made if it isn't there yet.

    Args:
      given: a command's arguments.
      words: that are erased.
      changes: of the preset's settings: {"sample.eval_pictures": 0}.
    Raises:
      SystemExit, ValueError: as `trials.make`.
    """
    trying = argparse.Namespace(**{**vars(given), "seeds": [given.seed]})
    rows = {given.method or "default": (given.method, changes or {})}
    found = trials.trials_of(trying, rows, words)
    trials.make(found)
    return {one.word: one.source for one in found}


def names_in(stated: str, key: str) -> list[str]:
    """Distinct names of an argument: `cat,dog`, or `@FILE` with one a line.

    Raises:
      ValueError: a file that can't be read, or holds no name.
    """
    if stated.startswith("@"):
        return list(dict.fromkeys(words_in(stated[1:], key)))
    return list(dict.fromkeys(word.strip() for word in stated.split(",")))


def tasks_of(given: argparse.Namespace, words: Sequence[str]) -> tuple[dict[str, Task], Detector]:
    """The tasks of concepts, and their detector.

    Args:
      given: a command's model, pictures, cache and out.
      words: concepts.
    Raises:
      ValueError: no words, a concept that the model's world doesn't know, or no detector.
    """
    tasks, detector = {}, None
    trying = argparse.Namespace(**{**vars(given), "seeds": [0]})
    for trial in trials.trials_of(trying, {"": ("", {})}, words):
        made, detector = worlds.tasks_for(from_config(trial.config))
        tasks |= {task.concept: task for task in made}
    if detector is None:
        raise ValueError(
            f"{given.model} comes with no detector, which this task needs; give --model flux-tiny"
        )
    return tasks, detector


def asked(task: Task, metric: str, pictures: int | None = None) -> list[Probe]:
    """A task's first probes that ask for a metric, with that question alone."""
    found = []
    for probe in task.probes:
        questions = tuple(question for question in probe.questions if question[0] == metric)
        if questions:
            found.append(dataclasses.replace(probe, questions=questions))
    return found[:pictures]


def concept_of(subject: Subject) -> str:
    """What an edit erases; ValueError where that is unknown, or several concepts."""
    edit = subject.edit
    if edit is None or not edit.concept or len(edit.origins()) > 1 or ", " in edit.concept:
        said = edit and edit.concept
        raise ValueError(
            f"--edit={subject.source} erases {said!r}; this task needs edits of one concept each"
        )
    return edit.concept


def unrelated(tasks: Mapping[str, Task]) -> list[Probe]:
    """Probes of concepts that are none of the tasks', nor nearest to one; one for each concept.

    Their prompts name none of the tasks' concepts either: no style that was erased, say.
    """
    barred = {
        probe.questions[0][1]
        for task in tasks.values()
        for metric in (metrics.CONCEPT, metrics.NEAREST)
        for probe in asked(task, metric.name)
    }
    kept: dict[Answers, Probe] = {}
    for task in tasks.values():
        for probe in asked(task, metrics.OTHERS.name):
            named = any(spans.occurrences(probe.prompt, word) for word in tasks)
            if not named and (answers := probe.questions[0][1]) not in barred:
                kept.setdefault(answers, probe)
    return list(kept.values())


def features_of(detector: Detector) -> Callable[[np.ndarray], np.ndarray]:
    """Features of pictures [P, H, W, 3] in [0, 1] that a detector sees, as [P, F].

    Raises:
      ValueError: the detector has none.
    """
    features = getattr(detector, "features", None)
    if features is None:
        raise ValueError(f"{detector.name} has no features, which a Fréchet distance needs")
    return features


def prompts_of(probes: Sequence[Probe]) -> list[str]:
    """Distinct prompts, in order."""
    return list(dict.fromkeys(probe.prompt for probe in probes))
