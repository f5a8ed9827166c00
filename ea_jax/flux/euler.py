"""The Euler step down a schedule, and what the model is told of a noise level.

FluxPipeline rounds latents and times to the weights' dtype at each step. In bfloat16 both change
what is painted, so whoever walks a schedule (a picture, a path of training) walks it by these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Levels(NamedTuple):
    """A schedule's steps: what stands at each noise level but the last.

    Attributes:
      time_Z: the noise level as the model is told it, in the weights' dtype.
      delta_Z: float32 change to the next noise level.
    """

    time_Z: jax.Array
    delta_Z: jax.Array


def levels(sigmas: Sequence[float] | np.ndarray, dtype: Any) -> Levels:
    """The steps of a schedule for weights of `dtype`; `sigmas` [steps + 1] fall, on the host."""
    sigmas = np.asarray(sigmas, np.float32)
    return Levels(jnp.asarray(model_times(sigmas[:-1], dtype)), jnp.asarray(np.diff(sigmas)))


def model_times(sigmas: np.ndarray, dtype: Any) -> np.ndarray:
    """Noise levels of a schedule as the model is told them.

    They are rounded to `dtype` as t in 0..1000, then divided by 1000. FluxPipeline rounds before it
    divides; in bfloat16 the order changes the angle of the time embedding.
    """
    dtype = np.dtype(dtype)
    thousand = np.asarray(1000, dtype)
    return (np.asarray(sigmas, np.float32) * np.float32(1000)).astype(dtype) / thousand


def model_time(t_B: jax.Array, dtype: Any) -> jax.Array:
    """`model_times` for noise levels that a program draws.

    In float32 they are told as they were drawn: nothing is rounded there.

    Args:
      t_B: noise levels in [0, 1].
      dtype: of the weights.
    Returns:
      [B] float32 numbers that `dtype` holds.
    """
    return rounded(rounded(1000 * t_B, dtype) / 1000, dtype) if _is_narrow(dtype) else t_B


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """`x` in float32, rounded to what `dtype` holds.

    Under jit, XLA would drop a cast to `dtype` and back; `reduce_precision` is the rounding that
    it must not drop.
    """
    x = x.astype(jnp.float32)
    if not _is_narrow(dtype):
        return x
    kind = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)


def step(x_BSC: jax.Array, velocity_BSC: jax.Array, delta: jax.Array) -> jax.Array:
    """Latents one step on, in float32, rounded to the velocity's dtype.

    Args:
      x_BSC: latents.
      velocity_BSC: what the model predicts there.
      delta: float32 change of the noise level, negative; one for all rows, or [B, 1, 1].
    """
    moved_BSC = x_BSC.astype(jnp.float32) + delta * velocity_BSC.astype(jnp.float32)
    return rounded(moved_BSC, velocity_BSC.dtype)


def follow(
    velocity: Callable[[jax.Array, jax.Array], jax.Array],
    noise_BSC: jax.Array,
    sigmas: Sequence[float] | np.ndarray,
    steps: jax.Array | np.ndarray | int,
    *,
    dtype: Any,
) -> jax.Array:
    """Follows a model from pure noise some steps down a schedule, without gradient.

    Args:
      velocity: (x_BSC, t_B) -> [B, S, C].
      noise_BSC: x at sigmas[0] = 1.
      sigmas: noise levels from 1 down to 0, on the host.
      steps: Euler steps to take, 0 to all; may be traced. An array [B] on the host gives each row
        its own number.
      dtype: of the weights.
    Returns:
      [B, S, C] float32.
    """
    time_Z, delta_Z = levels(sigmas, dtype)
    by_row = isinstance(steps, np.ndarray)

    def euler(i: jax.Array, x_BSC: jax.Array) -> jax.Array:
        v_BSC = velocity(x_BSC, jnp.broadcast_to(time_Z[i], x_BSC.shape[:1]))
        moved_BSC = step(x_BSC, v_BSC, delta_Z[i])
        return jnp.where((i < steps)[:, None, None], moved_BSC, x_BSC) if by_row else moved_BSC

    last = int(steps.max()) if by_row else steps
    x_BSC = jax.lax.fori_loop(0, last, euler, rounded(noise_BSC, dtype))
    return jax.lax.stop_gradient(x_BSC)


def _is_narrow(dtype: Any) -> bool:
    return jnp.finfo(dtype).nmant < jnp.finfo(jnp.float32).nmant
