"""A transformer small enough to look at, and its weights as NumPy arrays."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.flux import transformer

CONFIG = {
    "_class_name": "FluxTransformer2DModel",
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": [2, 2, 4],
}
FILE = "diffusion_pytorch_model.safetensors"


def template(config=CONFIG, dtype=jnp.float32):
    shapes = _shapes(transformer.TransformerConfig.from_json(config), dtype)
    return jax.tree.map(lambda leaf: leaf, shapes)


_shapes = functools.cache(transformer.abstract_weights)


def random_like(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), tree)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)
