"""Rotary position embedding of FLUX: three axes (a constant, row, column), interleaved pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def rope_table(
    text_length: int,
    grid: tuple[int, int],
    axes_dims: tuple[int, ...],
    theta: float = 10000.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines for text (all at position 0) followed by the image's packed grid.

    Angles are computed in float64: at position 63 a bfloat16 angle is already off by 0.18 rad.

    Args:
      text_length: number of text tokens.
      grid: rows and columns of packed image tokens.
      axes_dims: widths given to the axes (constant, row, column), all even; their sum is the
        head width.
      theta: base of the frequencies.
    Returns:
      Two float32 arrays [S, E], S = text_length + rows * columns; each frequency stands twice
      in a row, for the two numbers of a pair.
    """
    rows, columns = grid
    ids_S3 = np.zeros((text_length + rows * columns, 3))
    ids_S3[text_length:, 1] = np.repeat(np.arange(rows), columns)
    ids_S3[text_length:, 2] = np.tile(np.arange(columns), rows)
    angles = []
    for axis, width in enumerate(axes_dims):
        frequencies = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
        angles.append(np.repeat(ids_S3[:, axis, None] * frequencies, 2, axis=1))
    angle_SE = np.concatenate(angles, axis=1)
    return np.cos(angle_SE).astype(np.float32), np.sin(angle_SE).astype(np.float32)


def rotate(x_BSHE: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates pairs (x0, x1) of queries or keys by their position's angle, in float32."""
    cos_SE, sin_SE = table
    x = x_BSHE.astype(jnp.float32)
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    out = x * cos_SE[:, None, :] + turned * sin_SE[:, None, :]
    return out.astype(x_BSHE.dtype)
