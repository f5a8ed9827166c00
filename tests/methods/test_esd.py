"""ESD's loss is its equation, its paths are the frozen model's, and only adapters move."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax import lora
from ea_jax.flux import euler
from ea_jax.methods import esd
from ea_jax.methods.forward import Forward, velocity_of

FORWARD = Forward(model=SMALL, grid=(2, 3), sigmas=SIGMAS)


def state(pool_PSC):
    adapters = lora.init(jax.random.key(1), BASE, scope="dual_qk", rank=2)
    adapters = jax.tree.map(lambda x: x + 0.1, adapters)
    return esd.State(adapters, OPTIMISER.init(adapters), pool_PSC)


def batch(index: int, *, fresh: bool, rows: int = 2) -> esd.Batch:
    inputs = Inputs()
    return esd.Batch(
        member_B=jnp.arange(rows),
        fresh_B=jnp.full(rows, fresh),
        index_B=jnp.full(rows, index),
        weight_B=jnp.ones(rows),
        text=inputs.text(rows),
        anchor=inputs.text(rows),
        empty=inputs.text(rows),
        seed=jnp.uint32(5),
    )


def stepped(before: esd.State, given: esd.Batch, eta: float = 1.5):
    program = functools.partial(esd.train_step, eta=eta, forward=FORWARD, optimiser=OPTIMISER)
    return jax.jit(program)(before, BASE, given)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_the_loss_is_the_equation(eta: float) -> None:
    x_BSC = Inputs().array(2, 6, SMALL.in_channels)
    before, given = state(x_BSC), batch(1, fresh=False)
    t_B = jnp.full(2, SIGMAS[1])

    def v(adapters, text):
        return np.asarray(velocity_of(BASE, adapters, x_BSC, t_B, text, FORWARD)[0], np.float64)

    concept, anchor, empty = (v(None, text) for text in (given.text, given.anchor, given.empty))
    wanted = np.square(v(before.lora, given.text) - (anchor - eta * (concept - empty))).mean()
    _, terms = stepped(before, given, eta)
    assert float(terms["esd"]) == pytest.approx(wanted, rel=1e-5)


def test_paths_are_the_frozen_model_s_whatever_the_adapters() -> None:
    now = state(jnp.zeros((2, 6, SMALL.in_channels)))
    for index in range(3):
        given = batch(index, fresh=index == 0)
        now, _ = stepped(now, given)
    noise_BSC = esd.normal(jax.random.key(jnp.uint32(5)), (2, 6, SMALL.in_channels))
    frozen = euler.follow(
        lambda x, t: velocity_of(BASE, None, x, t, given.text, FORWARD)[0],
        noise_BSC,
        SIGMAS,
        3,
        dtype=jnp.float32,
    )
    np.testing.assert_allclose(now.pool_PSC, frozen, atol=1e-5)


def test_a_row_that_fills_up_neither_counts_nor_moves_a_path() -> None:
    before, given = state(Inputs().array(2, 6, SMALL.in_channels)), batch(1, fresh=False)
    after, _ = stepped(before, given.replace(weight_B=jnp.array([1.0, 0.0])))
    assert not np.array_equal(after.pool_PSC[0], before.pool_PSC[0])
    np.testing.assert_array_equal(after.pool_PSC[1], before.pool_PSC[1])
    assert not np.array_equal(jax.tree.leaves(after.lora)[0], jax.tree.leaves(before.lora)[0])
