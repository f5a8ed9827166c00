"""Guidance distillation: classifier-free guidance moves into the guidance embedding, as in dev.

The student under guidance g learns what the teacher would give with two forwards,
`v_empty + g (v_caption - v_empty)`, so that sampling needs one forward a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ea_jax.flux import clip, t5, transformer
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import Text, TransformerConfig
from ea_jax.flux_tiny.training import flux_batches
from ea_jax.flux_tiny.training.flux_batches import FluxBatch, FluxTraining
from ea_jax.flux_tiny.training.loop import Weights
from ea_jax.flux_tiny.training.train_flux import GUIDANCE, encode, noised


class DistilBatch(struct.PyTreeNode):
    """A batch as for pretraining, and the frozen teacher."""

    flux: FluxBatch
    teacher: Weights


def split(batch: DistilBatch) -> tuple[Any, Callable[[Any], DistilBatch]]:
    """Parts of a batch, for `loop.make_step`."""
    parts, join = flux_batches.split(batch.flux)
    return parts, lambda part: DistilBatch(join(part), batch.teacher)


def make_loss(
    config: TransformerConfig,
    t5_config: t5.T5Config,
    clip_config: clip.ClipConfig,
    training: FluxTraining,
    *,
    grid: tuple[int, int],
) -> Callable[[Weights, DistilBatch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
    """`loss(weights, batch, key) -> (scalar, terms)` for `loop.make_step`."""
    uncaptioned = dataclasses.replace(training, caption_empty=1.0)

    def loss(weights, batch, key):
        keys = jax.random.split(key, 4)
        x_BSC, t_B, _ = noised(batch.flux, keys[1], keys[2], training)
        # Without a caption both are the same, so that guidance leaves the empty prompt as it is.
        text = encode(batch.flux, t5_config, clip_config, keys[0], training)
        empty = encode(batch.flux, t5_config, clip_config, keys[0], uncaptioned)
        B = len(t_B)
        guidance_B = jax.random.uniform(keys[3], (B,), minval=GUIDANCE[0], maxval=GUIDANCE[1])

        def velocity(w: Weights, x, t, text: Text, guidance) -> jax.Array:
            w = unrolled(w)
            v, _ = transformer.velocity(w, config, x, t, text, grid=grid, guidance_B=guidance)
            return v

        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), empty, text)
        twice = lambda a: jnp.concatenate([a, a])  # noqa: E731
        plain = jnp.ones(2 * B)
        v = velocity(batch.teacher, twice(x_BSC), twice(t_B), both, plain)
        v_empty, v_text = jnp.split(v, 2)
        target = jax.lax.stop_gradient(v_empty + guidance_B[:, None, None] * (v_text - v_empty))
        error = jnp.square(velocity(weights, x_BSC, t_B, text, guidance_B) - target).mean()
        return error, {}

    return loss
