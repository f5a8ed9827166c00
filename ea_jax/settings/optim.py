"""Section `optim`: how long and how fast."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import MANY, SettingsError, check, choice, number


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """How long and how fast.

    Attributes:
      pairs: lower steps for each word of a run, and as many upper steps.
      optimisers: moments for each level (`two`), or shared (`one`).
      lr_lower, lr_upper: learning rates; with `one` optimiser they have to be equal.
      lr_decay: share of the run, its end, in which both rates fall evenly to 0.
      batch: trajectories in a lower step; divides data.pool.
      lora_batch, keep_batch, rsc_batch: pictures in an upper step, for each term.
      b1, b2, eps, weight_decay: AdamW's.
      seed: of everything a run draws.
    """

    pairs: int = number(int, low=1)
    optimisers: str = choice("two", "one")
    lr_lower: float = number(float, low=0, above=True)
    lr_upper: float = number(float, low=0, above=True)
    lr_decay: float = number(float, low=0, high=1)
    batch: int = number(int, low=1, high=MANY)
    lora_batch: int = number(int, low=1, high=MANY)
    keep_batch: int = number(int, low=1, high=MANY)
    rsc_batch: int = number(int, low=1, high=MANY)
    b1: float = number(float, low=0, high=1, below=True)
    b2: float = number(float, low=0, high=1, below=True)
    eps: float = number(float, low=0, above=True)
    weight_decay: float = number(float, low=0)
    seed: int = number(int, low=0)

    def __post_init__(self) -> None:
        check(self, "optim")
        if self.optimisers == "one" and self.lr_lower != self.lr_upper:
            raise SettingsError(
                f"optim.lr_lower = {self.lr_lower:g} and optim.lr_upper = {self.lr_upper:g} "
                "differ; one optimiser has one learning rate: make them equal, or set "
                "optim.optimisers=two"
            )
