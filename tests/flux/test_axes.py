"""FLUX split over devices computes what it computes whole."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux import axes
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import (
    Text,
    TransformerConfig,
    abstract_weights,
    init_weights,
    velocity,
)
from ea_jax.runtime.mesh import make_mesh, sharding

CONFIG = TransformerConfig(
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=8,
    num_attention_heads=8,
    joint_attention_dim=24,
    pooled_projection_dim=12,
    guidance_embeds=True,
    axes_dims_rope=(4, 2, 2),
)
DEV = TransformerConfig(
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=128,
    num_attention_heads=24,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    guidance_embeds=True,
    axes_dims_rope=(16, 56, 56),
)
MESHES = [{"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 8}, {"tensor": 8}, {"data": 8}]


def test_every_leaf_has_an_axis_for_each_dimension() -> None:
    weights = abstract_weights(DEV, jnp.bfloat16)
    found = axes.logical_axes(weights)
    assert jax.tree.all(jax.tree.map(lambda leaf, names: len(names) == leaf.ndim, weights, found))
    attention = found["transformer_blocks"]["attn"]
    assert attention["to_q"]["kernel"] == ("layers", "model", "heads")
    assert attention["to_out"]["bias"] == ("layers", "model")
    assert found["single_transformer_blocks"]["proj_out"]["kernel"] == ("layers", "mlp", "model")
    assert found["proj_out"]["kernel"] == ("model", "channels")


def test_a_transpose_is_split_as_its_kernel_is() -> None:
    weights = jax.eval_shape(functools.partial(unrolled, transposes=True), abstract_weights(CONFIG))
    block = axes.logical_axes(weights)["transformer_blocks"][1]
    assert block["ff"]["up"]["kernel"] == ("model", "mlp")
    assert block["ff"]["up"]["kernel_T"] == ("mlp", "model")


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(ValueError, match=r"to_z\.kernel has no logical axes"):
        axes.logical_axes({"to_z": {"kernel": jnp.zeros((2, 2))}})


@pytest.mark.parametrize("shape", [{"tensor": 8}, {"fsdp": 8}, {"fsdp": 2, "tensor": 4}], ids=str)
def test_a_device_holds_its_share_of_flux_dev(shape: dict[str, int]) -> None:
    """12 billion parameters in bfloat16 on 8 devices: 3 GB each, and hardly more."""
    weights = abstract_weights(DEV, jnp.bfloat16)
    places = axes.shardings(make_mesh(shape), weights)
    whole = sum(math.prod(x.shape) for x in jax.tree.leaves(weights))
    share = sum(
        math.prod(place.shard_shape(leaf.shape))
        for leaf, place in zip(jax.tree.leaves(weights), jax.tree.leaves(places), strict=True)
    )
    assert 11.8e9 < whole < 12.0e9
    assert share < 1.02 * whole / 8


def test_heads_that_do_not_divide_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"'(heads|mlp)' of size \d+ doesn't split over"):
        axes.shardings(make_mesh({"tensor": 5}), abstract_weights(DEV))


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_velocity_on_a_mesh_is_the_velocity_of_one_device(shape: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    weights = init_weights(CONFIG, jax.random.key(0))
    x_BSC = rng.normal(size=(8, 4, 16)).astype(np.float32)
    t_B = np.linspace(0.1, 0.9, 8, dtype=np.float32)
    text = Text(
        t5_BTD=rng.normal(size=(8, 3, 24)).astype(np.float32),
        pooled_BD=rng.normal(size=(8, 12)).astype(np.float32),
    )
    guidance_B = np.full(8, 3.5, np.float32)

    @jax.jit
    def run(weights, x_BSC, t_B, text, guidance_B):
        return velocity(weights, CONFIG, x_BSC, t_B, text, grid=(2, 2), guidance_B=guidance_B)[0]

    expected = run(weights, x_BSC, t_B, text, guidance_B)
    mesh = make_mesh(shape)
    rows = sharding(mesh, ("batch",))
    with jax.set_mesh(mesh):
        got = run(
            jax.device_put(weights, axes.shardings(mesh, weights)),
            *jax.device_put((x_BSC, t_B, text, guidance_B), rows),
        )
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
