"""Section `meta_unlearning`: erasing so that a fine-tune does not bring the concept back."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class MetaUnlearningSettings:
    """Meta-Unlearning; see `ea_jax.methods.meta_unlearning`.

    Prompts, batch (of paths, and of each set of pictures), pool and t_draw are other sections'.

    Attributes:
      steps: for each word of a run.
      lr: learning rate of AdamW.
      eta: strength of the negative guidance.
      keep, related: weights of what is held: pictures to keep, pictures of what is nearest.
      harm_concept, harm_keep, harm_related: weights of what is pushed up after the fine-tune.
      clip: error of a picture that is pushed no further.
      relearn_steps, relearn_lr: of the fine-tune within each step; its learning rate.
      pictures: of each word's anchors, where nothing near to any word of the run is known.
    """

    steps: int = number(int, low=1, high=MANY)
    lr: float = number(float, low=0, above=True)
    eta: float = number(float, low=0)
    keep: float = number(float, low=0)
    related: float = number(float, low=0)
    harm_concept: float = number(float, low=0)
    harm_keep: float = number(float, low=0)
    harm_related: float = number(float, low=0)
    clip: float = number(float, low=0, above=True)
    relearn_steps: int = number(int, low=1, high=MANY)
    relearn_lr: float = number(float, low=0, above=True)
    pictures: int = number(int, low=1, high=MANY)

    def __post_init__(self) -> None:
        check(self, "meta_unlearning")
