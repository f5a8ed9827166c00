"""Section `model`: the base model and how it is run."""

from __future__ import annotations

import dataclasses

from ea_jax.settings.fields import check, choice, number, optional, text


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The base model and how it is run.

    Attributes:
      path: `flux-tiny`, a folder in diffusers' layout, or a hub id.
      revision: branch, tag or commit on the hub; None for main.
      dtype: of base weights and activations; adapters are float32 always.
      resolution: side of the square pictures, pixels.
      text_length: T5 tokens of a prompt, end token included.
      guidance: distilled guidance; None for a model without (schnell).
      attention: backend of joint attention; `splash` is for TPUs, `cudnn` for Hopper GPUs, and
        `auto` is the fastest that the devices can have. run.json says which it was.
      remat: what a backward pass computes again to save memory.
      blocks: `stacked`, one program for all blocks, or `unrolled`: each written out, which compiles
        longer and runs faster; for models of few blocks.
    """

    path: str = text()
    revision: str | None = optional(text())
    dtype: str = choice("float32", "bfloat16")
    resolution: int = number(int, low=16, high=2**16)
    text_length: int = number(int, low=2, high=512)
    guidance: float | None = optional(number(float, low=0))
    attention: str = choice("auto", "chunked", "full", "splash", "cudnn")
    remat: str = choice("none", "block", "dots")
    blocks: str = choice("stacked", "unrolled")

    def __post_init__(self) -> None:
        check(self, "model")
