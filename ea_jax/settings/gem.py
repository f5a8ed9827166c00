"""Section `gem`: erasing between two fields of velocity."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class GemSettings:
    """GEM; see `ea_jax.methods.gem`. Prompts, batch and pool are other sections'.

    Attributes:
      steps: for each word of a run.
      lr: learning rate of AdamW.
      share: of the schedule's steps that are trained on, from pure noise on.
      eta: how strongly the student is pushed off the concept's velocity.
      guidance: distilled guidance of all velocities in the loss; a model without has none.
      path_guidance: likewise, of the student as it walks its paths.
    """

    steps: int = number(int, low=1, high=MANY)
    lr: float = number(float, low=0, above=True)
    share: float = number(float, low=0, high=1, above=True)
    eta: float = number(float, low=0)
    guidance: float = number(float, low=0)
    path_guidance: float = number(float, low=0)

    def __post_init__(self) -> None:
        check(self, "gem")
