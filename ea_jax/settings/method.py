"""Section `method`: which way to erase."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import check, text


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """Which way to erase, by its name in `ea_jax.methods.registry`."""

    name: str = text()

    def __post_init__(self) -> None:
        check(self, "method")
