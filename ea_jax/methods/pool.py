"""The trajectory pool of a run: its first latents."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import jax

from ea_jax.flux import euler
from ea_jax.flux.transformer import dtype_of
from ea_jax.methods.forward import velocity_of
from ea_jax.methods.ready import Ready, run_key
from ea_jax.methods.trajectories import Turns
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import sharding
from ea_jax.runtime.streams import normal

_log = logging.getLogger(__name__)
_POOL_KEY = 1  # of the run's key


def first_pool(
    ready: Ready, weights: Any, turns: Turns, path_row: Callable[[int, int], int]
) -> jax.Array:
    """A run's pool before its first step, [P, S, C] float32: paths of the frozen model.

    Args:
      ready: the run's prompts and model.
      weights: the frozen model's.
      turns: of the pool.
      path_row: (member, its path) -> the bank's row that the path follows.
    """
    _log.info("staggering %d paths over the schedule", turns.members)
    s = ready.forward
    text = ready.bank.text("target", [path_row(member, 0) for member in range(turns.members)])

    def stagger(base, text, key):
        frozen = lambda x_PSC, t_P: velocity_of(base, None, x_PSC, t_P, text, s)[0]  # noqa: E731
        noise_PSC = normal(key, (turns.members, *s.latent_shape))
        return euler.follow(frozen, noise_PSC, s.sigmas, turns.offsets(), dtype=dtype_of(base))

    program = compiler.jit(stagger, ready.mesh, out_shardings=sharding(ready.mesh, ()))
    return program(weights, text, jax.random.fold_in(run_key(ready.settings), _POOL_KEY))
