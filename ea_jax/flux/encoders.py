"""The text encoders as programs: token ids to T5's outputs and CLIP's pooled ones."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.flux import clip, t5

# Rows at once: bounds the memory of many prompts, with one program for all of them.
ROWS = 16


def encode_t5(weights: Any, config: t5.T5Config, ids_BT: np.ndarray) -> jax.Array:
    """T5's outputs [B, T, D] of token ids; ValueError for an id beyond the vocabulary."""
    return _in_chunks(_t5_program, weights, config, ids_BT)


def pool_clip(weights: Any, config: clip.ClipConfig, ids_BT: np.ndarray) -> jax.Array:
    """CLIP's pooled outputs [B, D] of token ids; ValueError for an id beyond the vocabulary."""
    return _in_chunks(_clip_program, weights, config, ids_BT)


def _in_chunks(program: Any, weights: Any, config: Any, ids_BT: np.ndarray) -> jax.Array:
    # A look-up takes the last row for an index beyond it.
    if ids_BT.max() >= config.vocab_size:
        raise ValueError(
            f"a prompt has token {ids_BT.max()}, the text encoder knows {config.vocab_size}; leave "
            "out special tokens like <extra_id_0>"
        )
    rows = ids_BT.shape[0]
    if rows <= ROWS:
        return program(weights, config, ids_BT)
    padded_BT = np.pad(ids_BT, ((0, -rows % ROWS), (0, 0)), mode="edge")
    chunks = np.split(padded_BT, len(padded_BT) // ROWS)
    return jnp.concatenate([program(weights, config, chunk) for chunk in chunks])[:rows]


@functools.partial(jax.jit, static_argnums=1)
def _t5_program(weights, config, ids_BT):
    return t5.encode(weights, config, ids_BT)


@functools.partial(jax.jit, static_argnums=1)
def _clip_program(weights, config, ids_BT):
    return clip.pool(weights, config, ids_BT)
