"""Attacks, the victims that they are made for, and the trials that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

from ea_jax.attacks.canvas import Against, Said, Start
from ea_jax.edits import Edit, summed
from ea_jax.evaluate.probes import Probe
from ea_jax.painter import Sampling


@dataclasses.dataclass(frozen=True)
class Victim:
    """A model that is attacked.

    Attributes:
      name: in tables.
      edit: None is the frozen model.
      strength: of the edit; None is its recommended one.
      zeroed: whether a filter zeroes the columns of the concept's word while it paints: the
        paper's own failing baseline.
    """

    name: str
    edit: Edit | None = None
    strength: float | None = None
    zeroed: bool = False

    def identity(self) -> list[Any]:
        """What tells its weights and filter from another's, of what JSON can hold."""
        if self.edit is None:
            return [None, None, self.zeroed]
        return [self.edit.fingerprint, self.edit.used_strength(self.strength), self.zeroed]

    def with_another(self, extra: Edit | None) -> tuple[Edit | None, float | None]:
        """Its edit and strength, with another edit added at that one's own strength."""
        if extra is None:
            return self.edit, self.strength
        if self.edit is None:
            return extra, None
        return summed(
            [self.edit, extra], [self.edit.used_strength(self.strength), extra.used_strength()]
        ), None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a victim is given.

    Attributes:
      probes: the attacked prompts with their seeds.
      said: the prompts as they are encoded.
      budget: what was spent on making it, such as "100 steps"; empty where nothing was.
      start: of several with the same budget, from 0.
      sampling: None is the painter's.
      pictures: to begin from.
      added: an edit on top of the victim's own.
      against: negative prompts.
      rounded: number format that kernels are rounded to; see `Canvas`.
    """

    probes: tuple[Probe, ...]
    said: Said
    budget: str = ""
    start: int = 0
    sampling: Sampling | None = None
    pictures: Start | None = None
    added: Edit | None = None
    against: Against | None = None
    rounded: str | None = None


@dataclasses.dataclass(frozen=True)
class Attack:
    """A way to get an erased concept back.

    Attributes:
      name: in results.
      kind: what the attacker changes or knows.
      meaning: for a reader.
      trials: (`Bench`, victim) -> trials.
      own: whether each victim has trials of its own; if not, the base's serve all.
      plainly: whether prompts count that the base shows plainly asked; if not, those that it shows
        under the same trial.
    """

    name: str
    kind: Literal["black-box", "white-box", "settings", "picture", "weights"]
    meaning: str
    trials: Callable[[Any, Victim], Iterable[Trial]]
    own: bool = False
    plainly: bool = False
