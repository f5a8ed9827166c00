"""Section `embedder`: the closed form on the text's first layer."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, choice, number, optional, text


@dataclasses.dataclass(frozen=True)
class EmbedderSettings:
    """The closed form on the text's first layer; see `ea_jax.methods.embedder`.

    Attributes:
      keep: lambda, weight of each kept prompt beside that of an erased concept.
      growth: it grows with how many concepts a run erases, to this power.
      remains: in place of both, the share of the concepts' outputs that stays: as much is kept as
        that allows, for any number of concepts. None takes `keep` and `growth`.
      ridge: mu, as a share of the mean diagonal of the erased outputs' second moment.
      slips: weight of a concept's slips, all together, beside that of its word; see data.slips.
      inversions: likewise, of its inversions; see data.inversions.
      vocabulary: words that are kept beside the run's prompts: `none`, all of the model's `world`,
        or a file with one a line.
      captions: sentences around each of them.
      left_out: one of them in so many is not kept, on purpose: Acc_ir of these is the figure, on
        flux-tiny told apart; 0 keeps all.
      encoders: whose outputs' first layer is changed: that of `t5`, or of `both`, with CLIP's.
      rank: of each adapter.
    """

    keep: float = number(float, low=0)
    growth: float = number(float, low=0, high=4)
    remains: float | None = optional(number(float, low=0, high=1, above=True, below=True))
    ridge: float = number(float, low=0, above=True)
    slips: float = number(float, low=0)
    inversions: float = number(float, low=0)
    vocabulary: str = text()
    captions: int = number(int, low=1, high=100)
    left_out: int = number(int, low=0, high=1000)
    encoders: str = choice("t5", "both")
    rank: int = number(int, low=1, high=MANY)

    def __post_init__(self) -> None:
        check(self, "embedder")
