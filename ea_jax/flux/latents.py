"""Latents: packing 2 x 2 patches into tokens, noise from seeds, sizes."""

from __future__ import annotations

from collections.abc import Sequence

import einops
import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.runtime.streams import normal

PATCH = 2


def pack(z_BhwC: jax.Array) -> jax.Array:
    """Packs 2 x 2 patches of latents into tokens.

    Args:
      z_BhwC: latents, height and width even.
    Returns:
      [B, h/2 * w/2, 4 C], rows first; in a token the channel varies slowest, as in diffusers.
    """
    return einops.rearrange(z_BhwC, "b (h y) (w x) c -> b (h w) (c y x)", y=PATCH, x=PATCH)


def unpack(x_BSC: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """The inverse of `pack`.

    Args:
      x_BSC: packed latents.
      grid: rows and columns of tokens.
    Returns:
      [B, 2 rows, 2 columns, C / 4].
    """
    return einops.rearrange(
        x_BSC, "b (h w) (c y x) -> b (h y) (w x) c", h=grid[0], w=grid[1], y=PATCH, x=PATCH
    )


def size(height: int, width: int, factor: int) -> tuple[int, int]:
    """Height and width of the latents of a picture.

    Args:
      height: of the picture, in pixels.
      width: likewise.
      factor: pixels per latent, 8 for FLUX.1.
    Raises:
      ValueError: a side that 2 x factor does not divide.
    """
    step = PATCH * factor
    for name, side in (("height", height), ("width", width)):
        if side < step or side % step:
            below = max(step, side // step * step)
            raise ValueError(
                f"{name}={side} is not a multiple of {step} (two latents of {factor} pixels); "
                f"try {below} or {below + step}"
            )
    return height // factor, width // factor


def grid(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of packed tokens for latents of this size."""
    return size_hw[0] // PATCH, size_hw[1] // PATCH


def noise(seeds: Sequence[int], shape_hwC: tuple[int, int, int]) -> jax.Array:
    """Standard normal latents, one picture per seed, whatever batch it is drawn in.

    A picture's noise is `jax.random.normal(jax.random.key(seed), (h, w, C))` in float32 (Threefry,
    the same on every backend). It is not torch's noise for the same seed.

    Args:
      seeds: integers in [0, 2**32).
      shape_hwC: latent height and width (not packed), channels.
    Returns:
      [B, h, w, C] float32.
    Raises:
      ValueError: a seed out of range.
    """
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed {seed} is out of range; choose one from 0 to 2**32 - 1")
    draw = jax.vmap(lambda seed: normal(jax.random.key(seed), shape_hwC))
    return draw(jnp.asarray(np.asarray(seeds, np.uint32)))
