"""A linear layer with its kernel's transpose beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ea_jax.flux.layers import Linear
from ea_jax.runtime.flops import count_flops


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


def test_asking_for_the_gradient_of_what_is_frozen_is_an_error_and_the_bias_has_its_own():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    plain = nnx.grad(loss)(linear(None), x)
    assert np.any(plain.kernel[...])
    with pytest.raises(ValueError, match=r"kernel_T\) are frozen and have no gradient"):
        nnx.grad(loss)(linear(1), x)
    bias = nnx.DiffState(0, nnx.PathContains("bias"))
    beside = nnx.grad(loss, argnums=bias)(linear(1), x)
    np.testing.assert_allclose(beside["bias"][...], plain.bias[...], rtol=1e-6)


def test_a_gradient_takes_one_product_more():
    layer, x = linear(1), jnp.ones((4, 3))
    forward = count_flops(lambda x: loss(layer, x), x)
    assert count_flops(jax.grad(lambda x: loss(layer, x)), x) == 2 * forward
