"""Section `embedder`: the closed form on the text's first layer."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import check, number


@dataclasses.dataclass(frozen=True)
class EmbedderSettings:
    """The closed form on the text's first layer; see `ea_jax.methods.embedder`.

    Attributes:
      keep: lambda, weight of each kept prompt beside that of an erased concept.
      ridge: mu, as a share of the mean diagonal of the erased outputs' second moment.
      tolerance: relative error of the change that is left out for a smaller rank.
    """

    keep: float = number(float, low=0)
    ridge: float = number(float, low=0, above=True)
    tolerance: float = number(float, low=0, high=1, below=True)

    def __post_init__(self) -> None:
        check(self, "embedder")
