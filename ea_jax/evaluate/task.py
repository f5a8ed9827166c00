"""A task: what an erasure is asked about one concept, and how the answers are counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

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


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a world has of the paper's Table 6.

    Attributes:
      categories: concepts by category, in order.
      development: concepts on which settings may be chosen; the others are for a finished method.
    """

    categories: Mapping[str, tuple[str, ...]]
    development: tuple[str, ...]

    def chosen(self, which: str) -> tuple[str, ...]:
        """Those of `development`, `test`, `all`, or names separated by commas.

        Raises:
          ValueError: the development words of a world that has none.
        """
        every = tuple(word for words in self.categories.values() for word in words)
        if which == "development":
            if not self.development:
                raise ValueError(
                    "there are no development words here; give --words all, or some of "
                    + ", ".join(every)
                )
            return self.development
        if which == "test":
            return tuple(word for word in every if word not in self.development)
        if which == "all":
            return tuple(dict.fromkeys((*every, *self.development)))
        return tuple(dict.fromkeys(word.strip() for word in which.split(",")))

    def category(self, word: str) -> str:
        """That of a concept; `other` where Table 6 has none."""
        found = (name for name, words in self.categories.items() if word in words)
        return next(found, "other")


@dataclasses.dataclass(frozen=True)
class People:
    """Names of people or characters in a world: the paper's Table 7, or the like.

    Attributes:
      erased: that an evaluation erases, each by itself.
      kept: that should stay.
    """

    erased: tuple[str, ...]
    kept: tuple[str, ...]
