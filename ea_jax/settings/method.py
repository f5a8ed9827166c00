"""Section `method`: which way to erase."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import check, choice, text


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """Which way to erase.

    Attributes:
      name: in `ea_jax.methods.registry`.
      plus: a closed form whose adapters join those of another method: `embedder`, or `nothing`.
    """

    name: str = text()
    plus: str = choice("nothing", "embedder")

    def __post_init__(self) -> None:
        check(self, "method")
