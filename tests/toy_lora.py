"""Adapters for the transformer of `toy_weights`, files of some, a forward pass to try them on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import toy_weights

from convert import files
from ea_jax import lora
from ea_jax.flux.transformer import Text, TransformerConfig, velocity

CONFIG = TransformerConfig.from_json(toy_weights.CONFIG)
EVERYWHERE = "dual_qkv+image_qkv+single+embed"
GRID = (2, 2)


def trained(scope="dual_qk", rank=4, seed=0):
    """Adapters with a B that isn't zero."""
    fresh = lora.init(jax.random.key(seed), toy_weights.template(), scope=scope, rank=rank)
    return toy_weights.random_like(fresh, seed)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return draw(1, 4, 16), jnp.array([0.6]), Text(t5_BTD=draw(1, 3, 12), pooled_BD=draw(1, 10))


@jax.jit
def forward(weights, adapters):
    x_BSC, t_B, text = inputs()
    guidance_B = jnp.array([3.5])
    return velocity(
        weights, CONFIG, x_BSC, t_B, text, grid=GRID, guidance_B=guidance_B, lora=adapters
    )[0]


def written(folder, arrays, metadata=None):
    """A LoRA file of someone else's."""
    path = folder / "other.safetensors"
    files.write_arrays(path, arrays, metadata or {})
    return path


def pair(name, rank=4, width=16, prefix="transformer.", width_out=None):
    rng = np.random.default_rng([*name.encode()])
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        f"{prefix}{name}.lora_A.weight": draw(rank, width),
        f"{prefix}{name}.lora_B.weight": draw(width_out or width, rank),
    }
