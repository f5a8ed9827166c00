"""Worlds: what words mean to a model, and who makes the task for it.

A model that comes with a detector belongs to that detector's world; every other one is a FLUX that
was trained on pictures of everything. A world's module is imported once a model belongs to it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ea_jax.concepts import lists
from ea_jax.concepts.flux_lexicon import Package
from ea_jax.concepts.flux_phrases import FluxPhrases
from ea_jax.concepts.lexicon import World
from ea_jax.evaluate.probes import Detector
from ea_jax.evaluate.task import Classes, People, Task
from ea_jax.flux import hub
from ea_jax.settings import Settings

# Folder in the pipeline's, with the detector -> module with `world()`, `classes()`,
# `people()`, `task_of(word, folder, ...)` and `tasks_for(settings, folder)`.
WORLDS = {"judge": "ea_jax.flux_tiny.task"}


def open_world() -> World:
    """The world of a FLUX that was trained on pictures of everything."""
    return World(Package(), FluxPhrases())


def of_model(path: str, revision: str | None = None) -> World:
    """The world that a model knows; arguments as `ModelSettings`."""
    found = _found(path, revision)
    return found[0].world() if found else open_world()


def has_detector(path: str, revision: str | None = None) -> bool:
    """Whether a model comes with a detector; arguments as `ModelSettings`."""
    return _found(path, revision) is not None


def classes_of(path: str, revision: str | None = None) -> Classes:
    """The categories of Table 6 in a model's world.

    Raises:
      ValueError: the model comes without a detector, so nothing could be measured.
    """
    found = _found(path, revision)
    if found is None:
        raise ValueError(
            f"{path} comes with no detector, which this task needs; give --model flux-tiny, or "
            "--clip where the task takes it"
        )
    return found[0].classes()


def people_of(path: str, revision: str | None = None) -> People:
    """Names to erase and to keep in a model's world: Table 7's, where it comes with no detector."""
    if found := _found(path, revision):
        return found[0].people()
    names = lists.sections("table_7.txt")
    return People(tuple(names["erased"]), tuple(names["kept"]))


def tasks_for(settings: Settings) -> tuple[tuple[Task, ...], Detector | None]:
    """A task for each concept of a run and their detector; none where nothing is measured.

    That is where the model comes without a detector, or no pictures are asked for.

    Raises:
      ValueError: the model belongs to a world that doesn't know a concept.
    """
    if not settings.sample.eval_pictures:
        return (), None
    found = _found(settings.model.path, settings.model.revision)
    return found[0].tasks_for(settings, found[1]) if found else ((), None)


def task_of(model: str, word: str, *, pictures: int, seed: int = 0) -> tuple[Task, Detector]:
    """What is asked of a concept, whatever erased it, and the detector.

    Args:
      model: flux-tiny, a folder, or a hub id.
      word: the concept's.
      pictures: for each number.
      seed: of scenes and wording.
    Raises:
      ValueError: the model comes without a detector, or its world doesn't know the concept.
    """
    found = _found(model, None)
    if found is None:
        raise ValueError(
            f"{model} comes without a detector, so nothing says whether its pictures show "
            f"{word!r}; attack an edit of flux-tiny"
        )
    return found[0].task_of(word, found[1], pictures=pictures, seed=seed)


def _found(path: str, revision: str | None) -> tuple[Any, Path] | None:
    """Module of a model's world, and the folder of its detector."""
    source = hub.locate(path, [f"{name}/*" for name in WORLDS], revision)
    for name, module in WORLDS.items():
        if (source / name).is_dir():
            return importlib.import_module(module), source / name
    return None
