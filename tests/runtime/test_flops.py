"""Operation counts that can be checked by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_steps import BASE, OPTIMISER, Inputs, settings

from ea_jax.costs.scaling import line
from ea_jax.flux import axes
from ea_jax.methods.erase_anything.steps import lower_step, upper_step
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.hlo import Hlo
from ea_jax.runtime.mesh import make_mesh, put_rows, sharding

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


def compiled_steps(mesh, *steps):
    """Programs of a pair's steps on a mesh, and our count of each."""
    inputs, found = Inputs(), []
    terms = {"esd": 1.0, "attn": 1.0, "lora": 1.0, "keep": 1.0, "rsc": 0.1}
    with jax.set_mesh(mesh):
        base = jax.device_put(BASE, axes.shardings(mesh, BASE))
        state = jax.device_put(inputs.state(), sharding(mesh, ()))
        for fn in steps:
            batch = {lower_step: inputs.lower, upper_step: inputs.upper}[fn]()
            step = functools.partial(fn, settings=settings(**terms), optimiser=OPTIMISER)
            arguments = (state, base, put_rows(mesh, batch))
            text = jax.jit(step).lower(*arguments).compile().as_text()
            found.append((Hlo(text), count_flops(step, *arguments)))
    return found


@pytest.mark.xla_text
@pytest.mark.slow
def test_what_the_compiler_made_of_a_pair_has_as_many_operations_as_we_count():
    for program, count in compiled_steps(make_mesh({}), lower_step, upper_step):
        assert program.flops() == pytest.approx(count, rel=0.02)
        assert not any(program.collective_bytes().values())


@pytest.mark.xla_text
@pytest.mark.slow
@pytest.mark.parametrize("step", [lower_step, upper_step])
def test_two_devices_share_a_steps_operations_and_talk(step):
    [(program, count)] = compiled_steps(make_mesh({"tensor": 2}), step)
    assert 0.49 * count < program.flops() < 0.75 * count
    assert program.collective_bytes()["all-reduce"] > 0


@pytest.mark.xla_text
def test_collectives_inside_a_loop_count_at_every_turn():
    mesh = make_mesh({"tensor": 2})
    split = sharding(mesh, ("batch", "heads"))
    replicated = sharding(mesh, ())

    def summed(x, w):
        turn = lambda x, _: (jax.lax.with_sharding_constraint(x @ w @ w.T, split), None)  # noqa: E731
        return jax.lax.scan(turn, x, None, length=7)[0]

    x, w = jax.device_put(jnp.ones((4, 8)), split), jax.device_put(jnp.ones((8, 8)), replicated)
    once = Hlo(jax.jit(lambda x, w: summed(x, w)).lower(x, w).compile().as_text())
    sent = sum(once.collective_bytes().values())
    assert sent > 0
    assert sent % 7 == 0


def test_a_line_is_fitted_to_what_it_misses_by_the_smallest_share():
    a, b, off = line([1, 2, 10], [12, 14, 30])
    np.testing.assert_allclose([a, b, off], [10, 2, 0], atol=1e-9)
    assert line([1, 2, 10], [12, 14, 60])[2] > 0.1
