"""Section `sample`: pictures made before and after."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, integers, number, texts


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """Pictures made before and after.

    Attributes:
      steps: Euler steps.
      prompts: rows of the grid: the concept, a synonym, something irrelevant; made if empty.
      seeds: its columns; below 2**31, where training's seeds begin.
      batch: pictures painted at once.
      eval_pictures: pictures a number of the final table rests on; 0 leaves the table out.
    """

    steps: int = number(int, low=1, high=MANY)
    prompts: tuple[str, ...] = texts(distinct=True)
    seeds: tuple[int, ...] = integers(least=1, distinct=True)
    batch: int = number(int, low=1, high=MANY)
    eval_pictures: int = number(int, low=0, high=MANY)

    def __post_init__(self) -> None:
        check(self, "sample")
