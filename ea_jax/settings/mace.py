"""Section `mace`: mass concept erasure."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class MaceSettings:
    """MACE; see `ea_jax.methods.mace`. Prompts, batch, pictures and LoRA are other sections'.

    Attributes:
      steps: for each word of a run; the paper's are 50, and 120 for nudity.
      lr: learning rate of AdamW; the paper's is 1e-5 for objects and nudity, 1e-4 for people and
        styles.
      keep: weight of what is kept beside each concept: of the prompts to preserve together, and of
        each concept's sentences with another word in its place.
      stay: weight of the kernels as they are.
      times: noise levels at which inputs of the dual blocks are collected.
      templates: sentences of each name of a concept that they are collected in.
      level: noise level at which the attention to the concept says where it is in a picture.
      threshold: how much of it is the concept, between the least that it has in a picture, 0, and
        the most, 1.
      rank: of adapters that hold the change; 0 keeps it whole, as changes of kernels.
    """

    steps: int = number(int, low=1, high=MANY)
    lr: float = number(float, low=0, above=True)
    keep: float = number(float, low=0)
    stay: float = number(float, low=0, above=True)
    times: int = number(int, low=1, high=100)
    templates: int = number(int, low=1, high=MANY)
    level: float = number(float, low=0, high=1)
    threshold: float = number(float, low=0, high=1)
    rank: int = number(int, low=0, high=MANY)

    def __post_init__(self) -> None:
        check(self, "mace")
