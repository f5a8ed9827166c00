"""Weights as quantised copies of a model hold them: kernels rounded to eight bits.

An edit is made on full weights, and many of its users have a GPU that eight bits alone fit on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def _narrow(kernel: jax.Array) -> jax.Array:
    return kernel.astype(jnp.float8_e4m3fn)


def _fp8(kernel: jax.Array, axis: int) -> jax.Array:
    """To float8 e4m3 as it is, without a scale, as files in that format are made."""
    del axis
    # In two programs: in one, XLA may drop a cast that is followed by its opposite.
    return _narrow(kernel).astype(kernel.dtype)


def _int8(kernel: jax.Array, axis: int) -> jax.Array:
    """To 255 levels, as many below 0 as above, scaled by each output's largest weight."""
    largest = jnp.abs(kernel).max(axis, keepdims=True).astype(jnp.float32)
    step = jnp.where(largest == 0, 1, largest / 127)
    return (jnp.round(kernel / step) * step).astype(kernel.dtype)


FORMATS: Mapping[str, Callable[[jax.Array, int], jax.Array]] = {"fp8": _fp8, "int8": _int8}
# Kernels by their names, and the axis of their inputs.
_INPUTS = {"kernel": -2, "kernel_T": -1}


def rounded(weights: Any, form: str) -> Any:
    """Weights whose kernels are rounded to a number format, in their own dtype.

    Args:
      weights: of a transformer, blocks stacked or unrolled; what is no kernel stays.
      form: of `FORMATS`.
    """

    def round_one(path: Any, leaf: jax.Array) -> jax.Array:
        axis = _INPUTS.get(path[-1].key)
        return leaf if axis is None else FORMATS[form](leaf, axis)

    return jax.tree.map_with_path(round_one, weights)
