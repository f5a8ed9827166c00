"""Section `embedder`: the closed form on the text's first layer."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, number


@dataclasses.dataclass(frozen=True)
class EmbedderSettings:
    """The closed form on the text's first layer; see `ea_jax.methods.embedder`.

    Attributes:
      keep: lambda, weight of each kept prompt beside that of an erased concept; times the square
        of how many concepts a run erases.
      ridge: mu, as a share of the mean diagonal of the erased outputs' second moment.
      slips: weight of a concept's slips, all together, beside that of its word; see data.slips.
      rank: of the adapter.
    """

    keep: float = number(float, low=0)
    ridge: float = number(float, low=0, above=True)
    slips: float = number(float, low=0)
    rank: int = number(int, low=1, high=MANY)

    def __post_init__(self) -> None:
        check(self, "embedder")
