"""Section `uce`: Unified Concept Editing."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, check, choice, number


@dataclasses.dataclass(frozen=True)
class UceSettings:
    """UCE; see `ea_jax.methods.uce`. Its guide is the anchor of section `concept`.

    Attributes:
      scope: `embed`, the layers that read the text encoders' outputs, as its authors have it for
        FLUX; or `dual_qk`, Q and K of the text in the dual blocks.
      stay: lambda, weight of the kernel as it is.
      erase: weight of each name of a concept.
      keep: weight of each prompt that is kept; its tokens share it.
      times: noise levels at which inputs of the dual blocks are collected.
      templates: sentences of each name of a concept that they are collected in.
      rank: of adapters that hold the change; 0 keeps it whole, as changes of kernels.
    """

    scope: str = choice("embed", "dual_qk")
    stay: float = number(float, low=0, above=True)
    erase: float = number(float, low=0, above=True)
    keep: float = number(float, low=0)
    times: int = number(int, low=1, high=100)
    templates: int = number(int, low=1, high=MANY)
    rank: int = number(int, low=0, high=MANY)

    def __post_init__(self) -> None:
        check(self, "uce")
