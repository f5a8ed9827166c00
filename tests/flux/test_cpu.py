"""Gradients of base kernels: right with blocks written out, an error where they are transposed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_steps import BASE, SMALL, Inputs

from ea_jax import lora
from ea_jax.flux import cpu
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import velocity

GRID = (2, 3)


def loss(weights, x_BSC, text, adapters=None, remat="none"):
    t_B, guidance_B = jnp.full(2, 0.5), jnp.full(2, 3.5)
    v_BSC, _ = velocity(
        weights, SMALL, x_BSC, t_B, text,
        grid=GRID, guidance_B=guidance_B, lora=adapters, remat=remat,
    )  # fmt: skip
    return jnp.square(v_BSC).sum()


@pytest.fixture(scope="module")
def given():
    inputs = Inputs()
    return inputs.array(2, 6, SMALL.in_channels), inputs.text(2)


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "block"])
def test_base_gradients_of_blocks_written_out_are_those_of_stacked_ones(given, remat):
    gradient = jax.jit(lambda w: jax.grad(loss)(w, *given, remat=remat))
    stacked = unrolled(gradient(BASE))
    written = gradient(unrolled(BASE))
    assert jax.tree.structure(stacked) == jax.tree.structure(written)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(stacked), jax.tree.leaves(written), strict=True
    ):
        assert path[-1].key != "kernel" or np.abs(b).max() > 0, path
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=str(path))


@pytest.mark.parametrize("remat", ["none", "block", "dots"])
def test_the_gradient_of_a_kernel_beside_its_transpose_is_an_error(given, remat):
    weights = unrolled(BASE, transposes=True)
    wanted = r"kernels .* \(kernel_T\) are frozen and have no gradient; .*model\.blocks=stacked"
    with pytest.raises(ValueError, match=wanted):
        jax.jit(lambda w: jax.grad(loss)(w, *given, remat=remat))(weights)

    def through_one(kernel_IO):
        block = weights["transformer_blocks"][0]
        attn = block["attn"] | {"to_v": block["attn"]["to_v"] | {"kernel": kernel_IO}}
        blocks = (block | {"attn": attn}, *weights["transformer_blocks"][1:])
        return loss(weights | {"transformer_blocks": blocks}, *given, remat=remat)

    with pytest.raises(ValueError, match=wanted):
        jax.grad(through_one)(weights["transformer_blocks"][0]["attn"]["to_v"]["kernel"])


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "block"])
def test_adapters_and_latents_have_their_gradients_beside_transposes(given, remat):
    x_BSC, text = given
    adapters = lora.init(jax.random.key(1), BASE, scope="dual_qk", rank=2)
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    gradient = jax.jit(
        lambda w, x, a: jax.grad(lambda x, a: loss(w, x, text, a, remat), argnums=(0, 1))(x, a)
    )
    wanted = gradient(BASE, x_BSC, adapters)
    found = gradient(unrolled(BASE, transposes=True), x_BSC, adapters)
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_what_pays_on_a_cpu_is_not_active_elsewhere(monkeypatch):
    def gradient(platform):
        monkeypatch.setattr(cpu, "program_platform", lambda: platform)

        def loss(table_VD, q_BQHE):
            rows_BD = cpu.border(cpu.lookup(table_VD, np.array([1, 1, 0])))
            return rows_BD.sum() + jnp.square(cpu.logits(q_BQHE, q_BQHE)).sum()

        found = jax.jit(jax.grad(loss, argnums=(0, 1)))
        given = jnp.ones((3, 2)), jnp.arange(12.0).reshape(1, 3, 2, 2)
        return found(*given), str(jax.make_jaxpr(loss)(*given))

    (on_cpu, custom), (elsewhere, plain) = gradient("cpu"), gradient("gpu")
    assert "custom_vjp" in custom
    assert "custom_vjp" not in plain
    for a, b in zip(on_cpu, elsewhere, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
