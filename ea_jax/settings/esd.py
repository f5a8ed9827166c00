"""Section `esd`: erasing by negative guidance alone."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class EsdSettings:
    """ESD; see `ea_jax.methods.esd`. Prompts, batch, pool and teacher_guidance are other sections'.

    Attributes:
      steps: for each word of a run.
      lr: learning rate of AdamW.
      eta: strength of the negative guidance.
    """

    steps: int = number(int, low=1, high=MANY)
    lr: float = number(float, low=0, above=True)
    eta: float = number(float, low=0)

    def __post_init__(self) -> None:
        check(self, "esd")
