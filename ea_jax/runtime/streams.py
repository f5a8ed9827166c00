"""Random numbers on the host: one stream for each purpose, a function of its key alone."""

from __future__ import annotations

import numpy as np


def stream(seed: int, *key: int) -> np.random.Generator:
    """A generator for a purpose, told by the integers after the seed.

    Keys that differ give independent streams, also where one is the other with zeros behind it:
    `default_rng([seed, 1])` and `default_rng([seed, 1, 0])` are the same generator.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
