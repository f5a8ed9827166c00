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
from jax.sharding import Mesh

from ea_jax.flux import euler
from ea_jax.flux.adapters import Module
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.pictures import FIRST_SEED
from ea_jax.methods.ready import Ready
from ea_jax.runtime import compiler
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import batch_parts, pad_rows, put_rows, sharding
from ea_jax.runtime.streams import normal, stream

_log = logging.getLogger(__name__)
_NOISE = 401  # a stream of its own
STACK = ("transformer_blocks", "attn")
# What EraseAnything's paper compares in: Q and K of the text.
QUERIES_AND_KEYS: tuple[Module, ...] = ((*STACK, "add_q_proj"), (*STACK, "add_k_proj"))


class Moments(struct.PyTreeNode):
    """Sums over inputs of L blocks, float32: c of what shall move, g of its goal, k kept.

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
      kept: prompts.
      kept_BT: weight of each of their tokens among what is kept.
      seed_B: uint32, of the noise that a path begins from.
      erased: sentences with the concept, for which `kept` are the same without it; None where
        there are none.
      erased_BT: weight of each of their tokens among what shall move.
      goal_BT: int32, the token of `kept` that each goes to.
    """

    kept: Text
    kept_BT: np.ndarray
    seed_B: np.ndarray
    erased: Text | None = None
    erased_BT: np.ndarray | None = None
    goal_BT: np.ndarray | None = None


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
    begin, program = _programs(ready.mesh, ready.forward, sigmas, dtype_of(weights))
    _log.info("collecting inputs of %d prompts", sum(len(one.seed_B) for one in given))
    for part in _batches(given, batch, batch_parts(ready.mesh)):
        rows = put_rows(ready.mesh, part)
        x_BSC = begin(rows.seed_B)
        for index in range(len(sigmas) - 1):
            moments, x_BSC = program(moments, weights, x_BSC, rows, index)
    return moments


@functools.lru_cache(maxsize=4)
def _programs(mesh: Mesh, forward: Forward, sigmas: tuple[float, ...], dtype: Any) -> Any:
    """Of `collect`: compiled once for all of a run's calls."""
    collected = functools.partial(_collected, sigmas=sigmas, forward=forward)
    return (
        jax.jit(functools.partial(noise, forward=forward, dtype=dtype)),
        compiler.jit(collected, mesh, donate_argnums=0),
    )


def solved(sums: Moments, *, erase: float, keep: float, stay: float) -> Iterator[np.ndarray]:
    """Of each block X [D, D], float64, which its inputs are multiplied by beside the identity:

        X = argmin erase |C X - (G - C)|^2 + keep |K X|^2 + stay |X|^2

    Args:
      sums: moments of C, G and K.
      erase, keep, stay: weights; `stay` above 0.
    """
    for block in range(len(sums.kept_LDD)):
        erased_DD, moved_DD, kept_DD = (
            on_host(total_LDD[block]).astype(np.float64)
            for total_LDD in (sums.erased_LDD, sums.moved_LDD, sums.kept_LDD)
        )
        gram_DD = erase * erased_DD + keep * kept_DD
        gram_DD[np.diag_indices(len(gram_DD))] += stay
        yield np.linalg.solve(gram_DD, erase * moved_DD)


def thinned(sigmas: Sequence[float], times: int) -> tuple[float, ...]:
    """That many noise levels of a schedule, evenly from its first on, and 0 at the end."""
    levels = sigmas[:-1]
    chosen = np.linspace(0, len(levels), min(times, len(levels)), endpoint=False).astype(int)
    return (*(levels[index] for index in chosen), sigmas[-1])


def together(there_BT: np.ndarray, total: float = 1.0) -> np.ndarray:
    """Weights of some tokens [B, T], `total` in all: of each row alike, and of its tokens alike."""
    count_B1 = np.maximum(there_BT.sum(-1, keepdims=True), 1)
    return (total * there_BT / count_B1 / len(there_BT)).astype(np.float32)


def kept(
    ready: Ready,
    group: str,
    numbers: np.ndarray,
    there_BT: np.ndarray | None = None,
    *,
    total: float = 1.0,
    first: int = 0,
) -> Prompts:
    """Prompts of a group of the bank, their inputs to be summed as those that are kept.

    Args:
      ready: of the run.
      group, numbers: see `PromptBank.text`.
      there_BT: which of their tokens; None for all, padding too.
      total: what they weigh together.
      first: number of the first one's path, see `seeds`.
    """
    if there_BT is None:
        there_BT = np.ones((len(numbers), ready.bank.text_mask_UT.shape[1]), bool)
    own = seeds(ready, first, len(numbers))
    return Prompts(ready.bank.text(group, numbers), together(there_BT, total), own)


def seeds(ready: Ready, first: int, count: int) -> np.ndarray:
    """Seeds of paths, from those that training draws from; `first` is the number of the first."""
    own = (stream(ready.settings.optim.seed, _NOISE, first + n) for n in range(count))
    return np.array([rng.integers(FIRST_SEED, 2**32) for rng in own], np.uint32)


def _batches(given: Sequence[Prompts], batch: int, parts: int) -> Iterator[Prompts]:
    """Rows of each set in batches of one size; rows that only fill up weigh nothing."""
    size = batch + -batch % parts
    for one in given:
        for start in range(0, len(one.seed_B), size):
            some = jax.tree.map(lambda x, start=start: x[start : start + size], one)
            full, weight_B = pad_rows(some, size)
            weighed: dict[str, Any] = {"kept_BT": full.kept_BT * weight_B[:, None]}
            if full.erased_BT is not None:
                weighed["erased_BT"] = full.erased_BT * weight_B[:, None]
            yield full.replace(**weighed)


def noise(seed_B: jax.Array, *, forward: Forward, dtype: Any) -> jax.Array:
    """Latents of pure noise [B, S, C] for weights of `dtype`, each of a seed of its own."""
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
    kept_BTD = x_RTD[-len(given.kept_BT) :]
    kept_DD = _product(given.kept_BT, kept_BTD, kept_BTD)
    if given.erased_BT is None or given.goal_BT is None:
        return Moments(jnp.zeros_like(kept_DD), jnp.zeros_like(kept_DD), kept_DD)
    c_BTD = x_RTD[: len(kept_BTD)]
    goal_BTD = jnp.take_along_axis(kept_BTD, jnp.asarray(given.goal_BT)[..., None], axis=1)
    return Moments(
        _product(given.erased_BT, c_BTD, c_BTD),
        _product(given.erased_BT, c_BTD, goal_BTD - c_BTD),
        kept_DD,
    )


def _product(weight_BT: Any, left_BTD: jax.Array, right_BTD: jax.Array) -> jax.Array:
    weighed_BTD = weight_BT[..., None] * left_BTD
    return jnp.einsum("btd,bte->de", weighed_BTD, right_BTD, precision="highest")
