"""Section `lora`: which layers the adapter is on, and how large and strong it is."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import check, number, text


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The adapter: which layers it is on (see `ea_jax.lora`), rank, alpha (strength alpha/rank)."""

    scope: str = text()
    rank: int = number(int, low=1)
    alpha: float = number(float, low=0, above=True)

    def __post_init__(self) -> None:
        check(self, "lora")
