"""The model as a run's settings call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ea_jax.flux.transformer import TransformerConfig, dual_columns, velocity
from ea_jax.lora import scaled
from ea_jax.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
    """All that is static about a pass through the model.

    Attributes:
      model: shape of the transformer.
      grid: rows and columns of packed image tokens.
      sigmas: the sampler's noise levels, from 1 down to 0.
      lora_scale: alpha / rank.
      guidance: the model's distilled guidance; None for a model without.
      attention, remat: see `ea_jax.flux.transformer.velocity`.
    """

    model: TransformerConfig
    grid: tuple[int, int]
    sigmas: tuple[float, ...]
    lora_scale: float = 1.0
    guidance: float | None = 3.5
    attention: str = "chunked"
    remat: str = "none"

    @property
    def latent_shape(self) -> tuple[int, int]:
        """[S, C] of a packed latent."""
        return self.grid[0] * self.grid[1], self.model.in_channels

    def guided(self, guidance: float) -> Forward:
        """The same at another guidance; a model without any stays as it is."""
        return self if self.guidance is None else dataclasses.replace(self, guidance=guidance)


def forward_of(
    settings: Settings, model: TransformerConfig, grid: tuple[int, int], sigmas: Iterable[float]
) -> Forward:
    """A run's `Forward`."""
    return Forward(
        model=model,
        grid=grid,
        sigmas=tuple(map(float, sigmas)),
        lora_scale=settings.lora.alpha / settings.lora.rank,
        guidance=settings.model.guidance,
        attention=settings.model.attention,
        remat=settings.model.remat,
    )


def velocity_of(
    base: Any,
    lora: Any,
    x_BSC: jax.Array,
    t_B: jax.Array,
    text: Any,
    s: Forward,
    *,
    guidance: float | None = None,
    columns: Any = None,
    reduce: Any = None,
    tap: Any = None,
) -> tuple[jax.Array, Any]:
    """The velocity under a run's settings, and what `reduce` makes of the columns, or `tap`.

    Args:
      lora: adapters, not yet scaled; None is the frozen model.
      guidance: the run's own unless given.
      t_B: noise levels as the model is told them, see `ea_jax.flux.euler`.
      base, x_BSC, text, columns, reduce, tap: as for `ea_jax.flux.transformer.velocity`.
      s: the run's.
    """
    guidance = s.guidance if guidance is None else guidance
    return velocity(
        base,
        s.model,
        x_BSC,
        t_B,
        text,
        grid=s.grid,
        guidance_B=_every(guidance, t_B),
        lora=None if lora is None else scaled(lora, s.lora_scale),
        columns=columns,
        reduce=reduce,
        tap=tap,
        attention=s.attention,
        remat=s.remat,
    )


def columns_of(
    base: Any,
    lora: Any,
    x_BSC: jax.Array,
    t_B: jax.Array,
    text: Any,
    s: Forward,
    *,
    columns: Any,
    reduce: Any,
) -> Any:
    """What `reduce` makes of the columns of each dual block; the single blocks aren't run.

    Arguments as for `velocity_of`.
    """
    return dual_columns(
        base,
        s.model,
        x_BSC,
        t_B,
        text,
        columns,
        grid=s.grid,
        guidance_B=_every(s.guidance, t_B),
        lora=None if lora is None else scaled(lora, s.lora_scale),
        reduce=reduce,
        attention=s.attention,
        remat=s.remat,
    )


def _every(guidance: float | None, t_B: jax.Array) -> jax.Array | None:
    return None if guidance is None else jnp.full(len(t_B), guidance, jnp.float32)
