"""GEM's loss is its equation, and leaves alone what is near enough to the anchor."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trained as toy
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax.methods import gem, pool
from ea_jax.methods.trained import State

ROWS = 6
WALKING = toy.FORWARD.guided(1.5)


@functools.cache
def program(eta: float) -> Any:
    return jax.jit(
        functools.partial(
            gem.train_step, eta=eta, forward=toy.FORWARD, walking=WALKING, optimiser=OPTIMISER
        )
    )


def stepped(before: State, given: pool.Batch, eta: float = 1.0):
    return program(eta)(before, BASE, given)


@pytest.fixture(scope="module")
def given() -> tuple[State, pool.Batch]:
    inputs = Inputs()
    before = toy.state(inputs.array(ROWS, 6, SMALL.in_channels))
    # Far from the frozen model, so that it can be anywhere between its two velocities.
    far = before.replace(lora=jax.tree.map(lambda x: x + 1, before.lora))
    return far, pool.Batch(**toy.places(1, inputs, rows=ROWS))


def left(before: State, batch: pool.Batch, eta: float, adapters) -> jax.Array:
    """Of each row what is inside the relu, by hand."""
    x_BSC = before.pool_PSC

    def v(made, text):
        return toy.velocity(made, x_BSC, SIGMAS[1], text)

    anchor, concept, student = v(None, batch.anchor), v(None, batch.text), v(adapters, batch.text)
    distance = lambda a, b: jnp.sqrt(((a - b) ** 2).mean((1, 2)))  # noqa: E731
    return distance(student, anchor) - eta * distance(student, concept)


@pytest.mark.parametrize("eta", [pytest.param(1.0, marks=pytest.mark.slow), 0.5])
def test_the_loss_is_the_equation(given, eta: float) -> None:
    before, batch = given
    loss = lambda made: jnp.maximum(left(before, batch, eta, made), 0).mean()  # noqa: E731
    after, terms = stepped(before, batch, eta)
    assert float(terms["gem"]) == pytest.approx(float(loss(before.lora)), rel=1e-5)
    toy.close(after.lora, toy.descended(before, loss))


def test_a_row_that_is_nearer_to_the_anchor_is_left_alone(given) -> None:
    before, batch = given
    # Anchors so near to the sentences that what the adapters change can lead towards them.
    noise_BTD = jax.random.normal(jax.random.key(3), batch.text.t5_BTD.shape)
    near = batch.text.replace(t5_BTD=batch.text.t5_BTD + 0.1 * noise_BTD)
    batch = batch.replace(anchor=near)
    inside_B = np.asarray(left(before, batch, 1.0, before.lora))
    far_B = inside_B > 0
    assert 0 < far_B.sum() < ROWS
    _, terms = stepped(before, batch)
    assert float(terms["moved"]) == pytest.approx(far_B.mean())
    # The same as if the near rows weren't there, but for the number of rows in the mean.
    _, alone = stepped(before, batch.replace(weight_B=jnp.asarray(far_B, jnp.float32)))
    for name in ("gem", "grad_norm"):
        assert float(terms[name]) == pytest.approx(float(alone[name]) * far_B.mean(), rel=1e-3)
    none, terms = stepped(before, batch.replace(weight_B=jnp.asarray(~far_B, jnp.float32)))
    assert float(terms["gem"]) == float(terms["grad_norm"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, none.lora, before.lora)


@pytest.mark.parametrize(("steps", "walked"), [(28, 10), (4, 1), (1, 1)])
def test_paths_end_after_ten_of_twenty_eight_steps(steps: int, walked: int) -> None:
    made = toy.ready("gem", steps=steps)
    assert made.settings.gem.share == 10 / 28
    assert pool.Paths.of(made, share=made.settings.gem.share).turns.steps == walked


def test_paths_are_the_students_at_a_guidance_of_their_own(given) -> None:
    before, batch = given
    after, _ = stepped(before, batch)
    v = toy.velocity(before.lora, before.pool_PSC, SIGMAS[1], batch.text, guidance=1.5)
    walked = before.pool_PSC + (SIGMAS[2] - SIGMAS[1]) * v
    np.testing.assert_allclose(after.pool_PSC, walked, rtol=1e-4, atol=1e-5)
    other = toy.velocity(before.lora, before.pool_PSC, SIGMAS[1], batch.text)
    assert float(jnp.abs(v - other).max()) > 1e-3


def test_where_student_and_concept_are_one_the_gradient_is_finite(given) -> None:
    """As at a run's first step."""
    before, batch = given
    start = before.replace(lora=jax.tree.map(lambda x: x * 0, before.lora))
    _, terms = stepped(start, batch)
    assert np.isfinite(float(terms["grad_norm"]))
