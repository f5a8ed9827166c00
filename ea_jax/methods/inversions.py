"""Concept inversion: embeddings that aren't the concept's word, and still paint the concept.

Words that mean the concept need not lie near its word in the text encoder's output, so an erasure
of the word leaves them: on flux-tiny "futbol" has a cosine of 0.1 to "soccer ball". Here such
outputs are searched for on the frozen model, from other words', and erased along with the word: the
idea of STEREO (arXiv 2408.16807), whose search is textual inversion against pictures. This one asks
the frozen model for the velocity that it has under the word itself, a target without noise.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from ea_jax.concepts.array_cache import cached
from ea_jax.concepts.bank import Group, PromptBank, draw
from ea_jax.flux.attention import Columns
from ea_jax.flux.transformer import Text, Weights, velocity
from ea_jax.methods import losses
from ea_jax.methods.erase_anything import StepSettings
from ea_jax.methods.pictures import Album
from ea_jax.runtime.fingerprint import checksum
from ea_jax.runtime.mesh import batch_parts, pad_rows, put, put_rows, sharding
from ea_jax.runtime.metrics import NonFiniteError
from ea_jax.runtime.streams import stream
from ea_jax.settings import Settings

_log = logging.getLogger(__name__)
# Changes when the same inputs would give other bytes.
_VERSION = 1
# What is painted is decided at high noise.
LOWEST_T = 0.5
_START, _PICTURE, _NOISE, _SHARE = 201, 202, 203, 204


class Batch(struct.PyTreeNode):
    """One step's pictures of the concept, the sentences that made them, and its tokens there.

    Attributes:
      latent_BSC: clean and packed.
      seed_B: uint32, of each row's noise level and noise.
    """

    latent_BSC: jax.Array
    text: Text
    columns: Columns
    seed_B: jax.Array


def search(
    base: Weights,
    bank: PromptBank,
    concept: Album,
    *,
    settings: Settings,
    steps: StepSettings,
    mesh: Mesh,
    fingerprint: str,
) -> np.ndarray:
    """Embeddings that make the frozen model paint the concept, or those that a cache has.

    Args:
      base: frozen weights.
      bank: encoded prompts; its `plain` sentences of concept 0 are searched in.
      concept: pictures of those sentences.
      settings: of the run: data.inversions, their steps and rate, optim.batch and seed, the cache.
      steps: what is static about a step.
      mesh: that the weights lie on.
      fingerprint: of the weights.
    Returns:
      [M, N, D] float32 outputs of T5 for M inversions and the N tokens of the concept.
    Raises:
      ValueError: no prompt without the concept has a word to start from.
      OSError: the cache can't be written.
    """
    data, optim = settings.data, settings.optim
    inputs = {
        "version": _VERSION,
        "base": fingerprint,
        "text": checksum(bank.t5_UTD, bank.pooled_UD),
        "pictures": checksum(concept.latent_PSC),
        "inversions": data.inversions,
        "steps": data.inversion_steps,
        "rate": data.inversion_rate,
        "batch": optim.batch,
        "seed": optim.seed,
        "guidance": steps.guidance,
    }
    (found_MND,) = cached(
        data.cache,
        inputs,
        lambda: (_search(base, bank, concept, settings, steps, mesh),),
        names=("found_MND",),
        kind="inversions",
        what=f"{data.inversions} inversions",
    )
    return found_MND


def with_inversions(bank: PromptBank, found_MND: np.ndarray, *, seed: int) -> PromptBank:
    """The bank with each row of concept 0 once more, part inversion, part word.

    How much of the word, is drawn for each: between 0 and 1, so that what lies between the two is
    erased as well.

    Args:
      bank: of a run.
      found_MND: of `search`; the rows take them in turn.
      seed: of the run.
    """
    rows = bank.rows(concept=0)
    # Each time round the sentences, they meet other inversions.
    sentences = bank.sentence_R[rows].max() + 1
    taken = (np.arange(len(rows)) + np.arange(len(rows)) // sentences) % len(found_MND)
    text, columns = bank.text("un", rows), bank.columns("un", rows)
    share_R11 = np.array([[[stream(seed, _SHARE, r).random()]] for r in range(len(rows))])
    own_RND = np.take_along_axis(
        np.asarray(text.t5_BTD, np.float32), np.asarray(columns.idx_BN)[..., None], axis=1
    )
    found_RND = found_MND[taken][:, np.arange(own_RND.shape[1]) % found_MND.shape[1]]
    mixed_RND = share_R11 * own_RND + (1 - share_R11) * found_RND
    mixed_RND *= _root_mean_square(found_RND) / _root_mean_square(mixed_RND)
    t5_RTD = np.asarray(place(jnp.asarray(text.t5_BTD), columns, jnp.asarray(mixed_RND)))
    un, anchor = bank.groups["un"], bank.groups["anchor"]
    fresh_R = len(bank.prompts) + np.arange(len(rows), dtype=np.int32)
    more = {
        "un": Group(
            np.concatenate([un.prompt_G, fresh_R]),
            np.concatenate([un.idx_GN, un.idx_GN[rows]]),
            np.concatenate([un.mask_GN, un.mask_GN[rows]]),
        ),
        "anchor": Group(*(np.concatenate([x, x[rows]]) for x in dataclasses.astuple(anchor))),
    }
    said = [
        f"{bank.prompts[un.prompt_G[r]]} [inversion {m}]" for r, m in zip(rows, taken, strict=True)
    ]
    return dataclasses.replace(
        bank,
        prompts=(*bank.prompts, *said),
        t5_UTD=np.concatenate([bank.t5_UTD, t5_RTD.astype(bank.t5_UTD.dtype)]),
        pooled_UD=np.concatenate([bank.pooled_UD, np.asarray(text.pooled_BD)]),
        said_UT=np.concatenate([bank.said_UT, bank.said_UT[un.prompt_G[rows]]]),
        groups={**bank.groups, **more},
        concept_R=np.concatenate([bank.concept_R, bank.concept_R[rows]]),
        sentence_R=np.concatenate([bank.sentence_R, bank.sentence_R[rows]]),
        contrast_R=np.concatenate([bank.contrast_R, np.full(len(rows), -1, np.int32)]),
    )


def place(t5_BTD: jax.Array, columns: Columns, e_BND: jax.Array) -> jax.Array:
    """Outputs of T5 with embeddings [B, N, D] in place of the tokens of `columns`.

    Where more tokens are named than there are embeddings, these begin again. Float32.
    """
    rows_B1 = jnp.arange(len(t5_BTD))[:, None]
    width = columns.idx_BN.shape[1]
    chosen_BWD = e_BND[:, jnp.arange(width) % e_BND.shape[1]]
    # A column that is padding writes nowhere.
    idx_BW = jnp.where(columns.mask_BN, columns.idx_BN, t5_BTD.shape[1])
    return t5_BTD.astype(jnp.float32).at[rows_B1, idx_BW].set(chosen_BWD, mode="drop")


def _search(
    base: Weights,
    bank: PromptBank,
    concept: Album,
    settings: Settings,
    steps: StepSettings,
    mesh: Mesh,
) -> np.ndarray:
    data, optim, parts = settings.data, settings.optim, batch_parts(mesh)
    optimiser = optax.adam(optax.cosine_decay_schedule(data.inversion_rate, data.inversion_steps))
    plain = bank.groups["plain"].mask_GN[bank.plain(concept=0)]
    tokens = int(plain.sum(-1).max())
    others_ND = _other_words(bank)
    own = np.flatnonzero(bank.plain_C[concept.number_P] == 0)
    scale = _word_scale(bank)

    whole = sharding(mesh, ())
    begin = jax.jit(optimiser.init, out_shardings=whole)

    @functools.partial(jax.jit, out_shardings=whole)
    def step(u_BND, opt_state, base, batch: Batch):
        x_BSC, t_B = _noised(batch)
        target = _frozen(base, x_BSC, t_B, batch.text, steps)

        def loss(u_BND):
            t5_BTD = place(batch.text.t5_BTD, batch.columns, scale * u_BND)
            v = _frozen(base, x_BSC, t_B, batch.text.replace(t5_BTD=t5_BTD), steps)
            error_B = losses.velocity_error(v, target)
            return error_B.sum(), error_B

        grads, error_B = jax.grad(loss, has_aux=True)(u_BND)
        updates, opt_state = optimiser.update(grads, opt_state)
        moved_BND: Any = optax.apply_updates(u_BND, updates)
        return _unit(moved_BND), opt_state, error_B

    def batch(numbers: Sequence[int], turn: int) -> Batch:
        picked = np.array([draw(own, optim.seed, _PICTURE, m, turn) for m in numbers])
        sentences = concept.number_P[picked]
        latent_BSC: Any = concept.latent_PSC[picked]
        seed_B: Any = np.array(
            [stream(optim.seed, _NOISE, m, turn).integers(2**32) for m in numbers], np.uint32
        )
        return Batch(
            latent_BSC=latent_BSC,
            text=bank.text("plain", sentences),
            columns=bank.columns("plain", sentences),
            seed_B=seed_B,
        )

    found = []
    for first in range(0, data.inversions, optim.batch):
        numbers = range(first, min(first + optim.batch, data.inversions))
        start = [
            others_ND[stream(optim.seed, _START, m).integers(len(others_ND), size=tokens)]
            for m in numbers
        ]
        start_BND, _ = pad_rows(np.stack(start), parts)
        u_BND = put(_unit(start_BND), whole)
        opt_state, error_B = begin(u_BND), np.zeros(0)
        for turn in range(data.inversion_steps):
            padded, _ = pad_rows(batch(numbers, turn), parts)
            u_BND, opt_state, error_B = step(u_BND, opt_state, base, put_rows(mesh, padded))
        if not np.isfinite(error_B).all():
            raise NonFiniteError(
                f"the search for inversions came to numbers that are none; lower "
                f"data.inversion_rate = {data.inversion_rate:g}, or set data.inversions=0"
            )
        found.append(scale * np.asarray(u_BND)[: len(numbers)])
        _log.info("found %d of %d inversions", numbers.stop, data.inversions)
    return np.concatenate(found)


def _frozen(base: Weights, x_BSC: jax.Array, t_B: jax.Array, text: Text, steps: StepSettings):
    guidance_B = None if steps.guidance is None else jnp.full(len(t_B), steps.guidance)
    v, _ = velocity(
        base,
        steps.model,
        x_BSC,
        t_B,
        text,
        grid=steps.grid,
        guidance_B=guidance_B,
        attention=steps.attention,
        remat=steps.remat,
    )
    return v


def _noised(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """x_t and t in [LOWEST_T, 1] of each picture."""

    def one(latent_SC, seed):
        t_key, noise_key = jax.random.split(jax.random.key(seed))
        t = jax.random.uniform(t_key, minval=LOWEST_T)
        return (1 - t) * latent_SC + t * jax.random.normal(noise_key, latent_SC.shape), t

    return jax.vmap(one)(batch.latent_BSC, batch.seed_B)


def _word_scale(bank: PromptBank) -> float:
    """Root mean square of T5's outputs at the concept's own tokens."""
    sentences = bank.plain(concept=0)
    text, columns = bank.text("plain", sentences), bank.columns("plain", sentences)
    rows, places = np.nonzero(columns.mask_BN)
    own_ND = np.asarray(text.t5_BTD)[rows, columns.idx_BN[rows, places]].astype(np.float32)
    return float(np.sqrt(np.square(own_ND).mean()))


def _root_mean_square(x_RND: np.ndarray) -> np.ndarray:
    """Root mean square of each embedding, [R, N, 1]."""
    return np.sqrt(np.square(x_RND).mean(-1, keepdims=True))


def _other_words(bank: PromptBank) -> np.ndarray:
    """T5's outputs at the words of prompts without the concept, [words, D] float32."""
    prompts = np.union1d(bank.groups["preserve"].prompt_G, bank.groups["anchor"].prompt_G)
    words_ND = bank.t5_UTD[prompts][bank.said_UT[prompts]].astype(np.float32)
    if not len(words_ND):
        raise ValueError(
            "the search for inversions starts from other words, and no prompt without the concept "
            "has any; give concept.preserve_prompts, or set data.inversions=0"
        )
    return words_ND


def _unit(u_BND: jax.Array) -> jax.Array:
    """Each embedding with a root mean square of 1."""
    return u_BND / jnp.sqrt(jnp.square(u_BND).mean(-1, keepdims=True))
