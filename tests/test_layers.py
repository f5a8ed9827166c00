"""A linear layer with its kernel's transpose beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ea_jax.flux.layers import Linear


def linear(transpose):
    layer = Linear(3, 5, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(5.0)
    layer.kernel_T = None if transpose is None else nnx.Param(transpose * layer.kernel[...].T)
    return layer


def loss(layer, x):
    return jnp.sin(layer(x)).sum()


def test_gradients_pass_through_the_transpose():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    plain = jax.grad(loss, argnums=1)(linear(None), x)
    np.testing.assert_allclose(jax.grad(loss, argnums=1)(linear(1), x), plain, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss, argnums=1)(linear(2), x), 2 * plain, rtol=1e-6)


def test_kernel_and_bias_have_the_gradients_they_had():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    plain, beside = nnx.grad(loss)(linear(None), x), nnx.grad(loss)(linear(1), x)
    np.testing.assert_allclose(beside.kernel[...], plain.kernel[...], rtol=1e-6)
    np.testing.assert_allclose(beside.bias[...], plain.bias[...], rtol=1e-6)
    assert not np.any(beside.kernel_T[...])
