"""Worlds: which models come with a detector of their own, and who makes the task for it.

A world's module is imported once a model turns out to belong to it.
"""

from __future__ import annotations

import importlib

from ea_jax.evaluate.probes import Detector
from ea_jax.evaluate.task import NOTHING, Task
from ea_jax.flux import hub
from ea_jax.settings import Settings

# Folder in the pipeline's, with the detector -> module with `task_for(settings, folder)`.
WORLDS = {"judge": "ea_jax.flux_tiny.task"}


def task_for(settings: Settings) -> tuple[Task, Detector | None]:
    """The task of a run and its detector; NOTHING and None where nothing is measured.

    That is where the model comes without a detector, or no pictures are asked for.

    Raises:
      ValueError: the model belongs to a world that doesn't know the concept.
    """
    if not settings.sample.eval_pictures:
        return NOTHING, None
    model = settings.model
    source = hub.locate(model.path, [f"{name}/*" for name in WORLDS], model.revision)
    for name, module in WORLDS.items():
        if (source / name).is_dir():
            return importlib.import_module(module).task_for(settings, source / name)
    return NOTHING, None
