"""Section `ca`: erasing by the pictures of an anchor."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class CaSettings:
    """Both forms of CA; see `ea_jax.methods.ca`. Prompts, batch and t_draw are other sections'.

    Attributes:
      steps: for each word of a run.
      lr: learning rate of AdamW.
      pictures: of anchor prompts, for each word of a run.
      keep: weight of the term that holds the anchor's pictures.
    """

    steps: int = number(int, low=1, high=MANY)
    lr: float = number(float, low=0, above=True)
    pictures: int = number(int, low=1, high=MANY)
    keep: float = number(float, low=0)

    def __post_init__(self) -> None:
        check(self, "ca")
