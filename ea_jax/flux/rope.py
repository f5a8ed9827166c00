"""Rotary position embedding of FLUX: three axes (a constant, row, column), interleaved pairs.

Rotated queries and keys have the first numbers of all pairs, then the second ones: a product of the
two is the same in any one order of their numbers, and putting them back in pairs costs time.
"""

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
      Two float32 arrays [S, P], S = text_length + rows * columns, P pairs of a head.
    """
    rows, columns = grid
    ids_S3 = np.zeros((text_length + rows * columns, 3))
    ids_S3[text_length:, 1] = np.repeat(np.arange(rows), columns)
    ids_S3[text_length:, 2] = np.tile(np.arange(columns), rows)
    angles = []
    for axis, width in enumerate(axes_dims):
        frequencies = theta ** -(np.arange(0, width, 2, dtype=np.float64) / width)
        angles.append(ids_S3[:, axis, None] * frequencies)
    angle_Se = np.concatenate(angles, axis=1)
    return np.cos(angle_Se).astype(np.float32), np.sin(angle_Se).astype(np.float32)


def rotate(x_BSHE: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates pairs (x0, x1) of queries or keys by their position's angle, in float32.

    Args:
      x_BSHE: queries or keys; the pairs are neighbours.
      table: of `rope_table`, for these S positions.
    Returns:
      [B, S, H, E] in the dtype of `x_BSHE`: all x0, then all x1.
    """
    cos_S1e, sin_S1e = (half_Se[:, None] for half_Se in table)
    x = x_BSHE.astype(jnp.float32)
    x0, x1 = x[..., ::2], x[..., 1::2]
    turned = (x0 * cos_S1e - x1 * sin_S1e, x1 * cos_S1e + x0 * sin_S1e)
    return jnp.concatenate(turned, axis=-1).astype(x_BSHE.dtype)
