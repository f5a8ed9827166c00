"""What the dual blocks' text projections are given, as second moments, for closed forms.

These inputs depend on the noise level and on the block, so they are collected on the frozen model's
own paths, at some levels of a schedule, under several prompts. Each pass adds to moments of one
size for each block; no input outlives its pass.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ea_jax.flux import euler
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.pictures import FIRST_SEED
from ea_jax.methods.ready import Ready
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import batch_parts, pad_rows, put_rows, sharding
from ea_jax.runtime.streams import normal, stream

_log = logging.getLogger(__name__)
_NOISE = 401  # a stream of its own


class Moments(struct.PyTreeNode):
    """Sums over inputs of L blocks, float32: c at a concept's tokens, g a guide's, k kept.

    Attributes:
      erased_LDD: of c c'.
      moved_LDD: of c (g - c)'.
      kept_LDD: of k k'.
    """

    erased_LDD: jax.Array
    moved_LDD: jax.Array
    kept_LDD: jax.Array


class Prompts(struct.PyTreeNode):
    """Prompts whose inputs are collected, B rows.

    Attributes:
      kept: prompts without a concept; each one's tokens, padding too, weigh `kept_B` together.
      erased: sentences with the concept for which `kept` are the same with its guide; None where
        there are none.
      erased_BT: weight of each of their tokens: 0 but at the concept's.
      guide_BT: 1 at the guide's token in `kept`.
      seed_B: uint32, of the noise that a path begins from.
    """

    kept: Text
    kept_B: np.ndarray
    seed_B: np.ndarray
    erased: Text | None = None
    erased_BT: np.ndarray | None = None
    guide_BT: np.ndarray | None = None


def collect(
    ready: Ready, weights: Weights, given: Sequence[Prompts], *, times: int, batch: int
) -> Moments:
    """Moments over prompts, noise levels and tokens; every prompt weighs the same at all levels.

    Args:
      ready: of the run: model, mesh, schedule, seed.
      weights: the frozen transformer's.
      given: prompts to collect at, in sets of any size.
      times: noise levels, spread evenly over the run's schedule; each path takes as many steps.
      batch: rows of a pass.
    """
    sigmas = thinned(ready.forward.sigmas, times)
    width = ready.forward.model.width
    replicated = sharding(ready.mesh, ())
    zero = functools.partial(jnp.zeros, (ready.forward.model.num_layers, width, width), jnp.float32)
    moments = jax.jit(lambda: Moments(zero(), zero(), zero()), out_shardings=replicated)()
    begin = jax.jit(functools.partial(_noise, forward=ready.forward, dtype=dtype_of(weights)))
    program = compiler.jit(
        functools.partial(_collected, sigmas=sigmas, forward=ready.forward),
        ready.mesh,
        donate_argnums=0,
    )
    _log.info("collecting inputs of %d prompts", sum(len(one.kept_B) for one in given))
    for part in _batches(given, batch, batch_parts(ready.mesh)):
        rows = put_rows(ready.mesh, part)
        x_BSC = begin(rows.seed_B)
        for index in range(times):
            moments, x_BSC = program(moments, weights, x_BSC, rows, index)
    return moments


def thinned(sigmas: Sequence[float], times: int) -> tuple[float, ...]:
    """That many noise levels of a schedule, evenly from its first on, and 0 at the end."""
    levels = sigmas[:-1]
    chosen = np.linspace(0, len(levels), min(times, len(levels)), endpoint=False).astype(int)
    return (*(levels[index] for index in chosen), sigmas[-1])


def seeds(ready: Ready, first: int, count: int) -> np.ndarray:
    """Seeds of paths, from those that training draws from; `first` is the number of the first."""
    own = (stream(ready.settings.optim.seed, _NOISE, first + n) for n in range(count))
    return np.array([rng.integers(FIRST_SEED, 2**32) for rng in own], np.uint32)


def _batches(given: Sequence[Prompts], batch: int, parts: int) -> Iterator[Prompts]:
    """Rows of each set in batches of one size; rows that only fill up weigh nothing."""
    size = batch + -batch % parts
    for one in given:
        for start in range(0, len(one.kept_B), size):
            some = jax.tree.map(lambda x, start=start: x[start : start + size], one)
            full, weight_B = pad_rows(some, size)
            weighed: dict[str, Any] = {"kept_B": full.kept_B * weight_B}
            if full.erased_BT is not None:
                weighed["erased_BT"] = full.erased_BT * weight_B[:, None]
            yield full.replace(**weighed)


def _noise(seed_B: jax.Array, *, forward: Forward, dtype: Any) -> jax.Array:
    one = lambda seed: normal(jax.random.key(seed), forward.latent_shape)  # noqa: E731
    return euler.rounded(jax.vmap(one)(seed_B), dtype)


def _collected(
    moments: Moments,
    base: Weights,
    x_BSC: jax.Array,
    given: Prompts,
    index: jax.Array,
    *,
    sigmas: Sequence[float],
    forward: Forward,
) -> tuple[Moments, jax.Array]:
    """One pass at a noise level: its inputs added, and the paths one step on."""
    levels, rows = euler.levels(sigmas, dtype_of(base)), len(x_BSC)
    text = given.kept
    if given.erased is not None:
        text = jax.tree.map(lambda *two: jnp.concatenate(two), given.erased, text)
    sets = len(text.pooled_BD) // rows
    v, added = velocity_of(
        base,
        None,
        jnp.tile(x_BSC, (sets, 1, 1)),
        jnp.broadcast_to(levels.time_Z[index], (sets * rows,)),
        text,
        forward,
        tap=functools.partial(_moments, given=given),
    )
    # A path is that of the sentence with the concept, where there is one.
    next_BSC = euler.step(x_BSC, v[:rows], levels.delta_Z[index])
    share = 1 / (len(sigmas) - 1)
    return jax.tree.map(lambda total, new: total + share * new, moments, added), next_BSC


def _moments(input_RTD: jax.Array, *, given: Prompts) -> Moments:
    """Of one block's inputs; sentences with the concept come first."""
    x_RTD = input_RTD.astype(jnp.float32)
    kept_BTD = x_RTD[-len(given.kept_B) :]
    kept_BT = jnp.broadcast_to(given.kept_B[:, None] / x_RTD.shape[1], kept_BTD.shape[:2])
    kept_DD = _product(kept_BT, kept_BTD, kept_BTD)
    if given.erased_BT is None or given.guide_BT is None:
        return Moments(jnp.zeros_like(kept_DD), jnp.zeros_like(kept_DD), kept_DD)
    c_BTD = x_RTD[: len(kept_BTD)]
    guide_BTD = jnp.einsum("btd,bt->bd", kept_BTD, given.guide_BT, precision="highest")[:, None]
    return Moments(
        _product(given.erased_BT, c_BTD, c_BTD),
        _product(given.erased_BT, c_BTD, guide_BTD - c_BTD),
        kept_DD,
    )


def _product(weight_BT: Any, left_BTD: jax.Array, right_BTD: jax.Array) -> jax.Array:
    weighed_BTD = weight_BT[..., None] * left_BTD
    return jnp.einsum("btd,bte->de", weighed_BTD, right_BTD, precision="highest")
