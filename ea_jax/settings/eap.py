"""Section `eap`: erasing by negative guidance while the most harmed prompt is kept."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class EapSettings:
    """EAP; see `ea_jax.methods.eap`. Prompts, batch and pool are other sections'.

    Attributes:
      steps: for each word of a run.
      lr: learning rate of AdamW.
      eta: strength of the negative guidance.
      words: prompts that the adversarial one is chosen from.
      temperature: of that choice.
      searches: steps of the search before each update.
      search_lr: its learning rate.
    """

    steps: int = number(int, low=1, high=MANY)
    lr: float = number(float, low=0, above=True)
    eta: float = number(float, low=0)
    words: int = number(int, low=1, high=MANY)
    temperature: float = number(float, low=0, above=True)
    searches: int = number(int, low=0, high=MANY)
    search_lr: float = number(float, low=0, above=True)

    def __post_init__(self) -> None:
        check(self, "eap")
