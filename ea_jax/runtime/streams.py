"""Random numbers: on the host, a stream for each purpose; in programs, quick to compile."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def stream(seed: int, *key: int) -> np.random.Generator:
    """A generator for a purpose, told by the integers after the seed.

    Keys that differ give independent streams, also where one is the other with zeros behind it:
    `default_rng([seed, 1])` and `default_rng([seed, 1, 0])` are the same generator.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.normal(key, shape)` in float32, up to the rounding of the program it is in.

    Drawn in a row: for a CPU, XLA takes ten times as long to compile four axes.
    """
    return jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)
