"""Operation counts that can be checked by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from ea_jax.runtime.flops import count_flops

X, W = jnp.ones((3, 4)), jnp.ones((4, 5))
PRODUCT = 2 * 3 * 4 * 5


def test_a_matrix_product_costs_two_per_multiply_add():
    assert count_flops(lambda x, w: x @ w, X, W) == PRODUCT
    assert (
        count_flops(lambda x: jnp.einsum("bqe,bke->bqk", x, x), jnp.ones((2, 3, 4))) == 2 * 2 * 36
    )


def test_a_scan_counts_every_turn():
    def looped(x, stack):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]

    assert count_flops(looped, X, jnp.ones((7, 4, 4))) == 7 * 2 * 3 * 4 * 4


def test_jit_checkpoint_and_gradient_are_seen_through():
    loss = lambda x, w: jax.checkpoint(jax.jit(lambda x, w: jnp.sin(x @ w)))(x, w).sum()  # noqa: E731
    # Forward, forward again in the checkpoint's backward pass, and the gradient of x.
    assert count_flops(jax.grad(loss), X, W) == 3 * PRODUCT


def test_a_convolution_counts_its_window():
    conv = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count_flops(conv, jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))) == (
        2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    )


def test_a_loop_of_unknown_length_is_an_error():
    with pytest.raises(ValueError, match="no known number of turns"):
        count_flops(lambda n: jax.lax.fori_loop(0, n, lambda i, x: x, 0), 3)
