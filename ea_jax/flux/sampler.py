"""Flow-match Euler sampling: one scan over the noise levels, one velocity a step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ea_jax.flux import euler, transformer
from ea_jax.flux.columns import ColumnGain, Columns
from ea_jax.flux.transformer import Reduce, Text, TransformerConfig, Weights
from ea_jax.runtime import compiler


def sample(
    weights: Weights,
    config: TransformerConfig,
    x_BSC: jax.Array,
    text: Text,
    *,
    sigmas: np.ndarray,
    grid: tuple[int, int],
    guidance: float | None = None,
    lora: Any = None,
    column_gain: ColumnGain | None = None,
    columns: Columns | None = None,
    reduce: Reduce | None = None,
    attention: str = "chunked",
    negative: Text | None = None,
    true_cfg: float | None = None,
) -> tuple[jax.Array, Any]:
    """Integrates the flow from the first noise level to the last, compiled once per shape.

    Args:
      weights: transformer weights; activations take their dtype.
      config: shape of the transformer.
      x_BSC: packed latents at `sigmas[0]`; standard normal noise if that is 1.
      text: encoded prompts.
      sigmas: noise levels to visit, [steps + 1] falling, from `Schedule.sigmas` (or the tail of
        it, to go on from a latent that is partly denoised).
      grid: rows and columns of packed tokens.
      guidance: distilled guidance scale; None for a model without guidance embedding.
      lora: adapters with strength folded in; None is the frozen model.
      column_gain: factors on text columns.
      columns: concept positions whose attention is wanted at each step.
      reduce: what to keep of a block's columns, as for `velocity`. A new function retraces.
      attention: name of the attention backend.
      negative: encoded prompts to steer away from, as many as of `text`: true classifier-free
        guidance, v(negative) + true_cfg (v(text) - v(negative)), at two passes a step. Factors on
        columns, and what is handed out of them, are those of `text` alone.
      true_cfg: its scale; neither or both are given.
    Returns:
      [B, S, C] latents at `sigmas[-1]` in the weights' dtype, and `reduce`'s results with leading
      axes step and block (None without `columns`).
    Raises:
      ValueError: one of `negative` and `true_cfg` without the other, or a scale of NaN or Inf.
    """
    if (negative is None) != (true_cfg is None):
        raise ValueError("give both negative and true_cfg, or neither")
    if true_cfg is not None and not np.isfinite(true_cfg):
        raise ValueError(f"true_cfg is {true_cfg}; give a finite scale, 1 is without guidance")
    dtype = transformer.dtype_of(weights)
    if guidance is not None:
        guidance = jnp.float32(guidance)  # an array: another scale is no other program
    if true_cfg is not None:
        true_cfg = jnp.float32(true_cfg)
    program = _scan if isinstance(x_BSC, Tracer) else _program()
    return program(
        weights,
        config,
        x_BSC.astype(dtype),
        text,
        euler.levels(sigmas, dtype),
        grid=grid,
        guidance=guidance,
        lora=lora,
        column_gain=column_gain,
        columns=columns,
        reduce=reduce,
        attention=attention,
        negative=negative,
        true_cfg=true_cfg,
    )


@functools.cache
def _program() -> Callable[..., Any]:
    return compiler.jit(_scan, static_argnames=("config", "grid", "reduce", "attention"))


def _scan(
    weights, config, x_BSC, text, levels, *, guidance, negative=None, true_cfg=None, **options
):
    batch = x_BSC.shape[0]
    guidance_B = None if guidance is None else jnp.broadcast_to(guidance, (batch,))

    def velocity(x_BSC, time, text, **options):
        time_B = jnp.broadcast_to(time, (batch,))
        return transformer.velocity(
            weights, config, x_BSC, time_B, text, guidance_B=guidance_B, **options
        )

    def move(x_BSC, level):
        time, delta = level
        velocity_BSC, reduced = velocity(x_BSC, time, text, **options)
        if negative is not None and true_cfg is not None:
            plain = {name: options[name] for name in ("grid", "lora", "attention")}
            away_BSC, _ = velocity(x_BSC, time, negative, **plain)
            scale = true_cfg.astype(away_BSC.dtype)
            velocity_BSC = away_BSC + scale * (velocity_BSC - away_BSC)
        moved_BSC = euler.step(x_BSC, velocity_BSC, delta)
        return moved_BSC.astype(velocity_BSC.dtype), reduced

    return jax.lax.scan(move, x_BSC, tuple(levels))
