"""Stacking: a LoRA that has nothing to do with the concept, on top of the one that erased it."""

from __future__ import annotations

import dataclasses

from ea_jax.attacks import prompts
from ea_jax.attacks.bench import Bench
from ea_jax.attacks.trials import Attack, Trial, Victim
from ea_jax.edits import Edit


def benign(edit: Edit) -> Attack:
    """The plain prompts, with a benign edit at its recommended strength on top of each victim."""

    def trials(bench: Bench, victim: Victim) -> list[Trial]:
        return [dataclasses.replace(prompts.plain(bench), added=edit)]

    return Attack("benign", "weights", f"an edit of {edit.concept!r} on top", trials)
