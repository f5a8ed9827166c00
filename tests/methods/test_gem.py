"""GEM's loss is its equation, and leaves alone what is near enough to the anchor."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trained as toy
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax.methods import gem, pool
from ea_jax.methods.trained import State

ROWS = 6


def stepped(before: State, given: pool.Batch, margin: float = 0.0):
    program = functools.partial(
        gem.train_step, margin=margin, forward=toy.FORWARD, optimiser=OPTIMISER
    )
    return jax.jit(program)(before, BASE, given)


@pytest.fixture(scope="module")
def given() -> tuple[State, pool.Batch]:
    inputs = Inputs()
    before = toy.state(inputs.array(ROWS, 6, SMALL.in_channels))
    # Far from the frozen model, so that it can be anywhere between its two velocities.
    far = before.replace(lora=jax.tree.map(lambda x: x + 1, before.lora))
    return far, pool.Batch(**toy.places(1, inputs, rows=ROWS))


def left(before: State, batch: pool.Batch, margin: float, adapters) -> jax.Array:
    """Of each row what is inside the relu, by hand."""
    x_BSC = before.pool_PSC

    def v(made, text):
        return toy.velocity(made, x_BSC, SIGMAS[1], text)

    anchor, concept, student = v(None, batch.anchor), v(None, batch.text), v(adapters, batch.text)
    distance = lambda a, b: ((a - b) ** 2).mean((1, 2))  # noqa: E731
    pull, push = distance(student, anchor), distance(student, concept)
    return pull - push + margin * distance(anchor, concept)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_loss_is_the_equation(given, margin: float) -> None:
    before, batch = given
    loss = lambda made: jnp.maximum(left(before, batch, margin, made), 0).mean()  # noqa: E731
    after, terms = stepped(before, batch, margin)
    assert float(terms["gem"]) == pytest.approx(float(loss(before.lora)), rel=1e-5)
    toy.close(after.lora, toy.descended(before, loss))


def test_a_row_that_is_nearer_to_the_anchor_is_left_alone(given) -> None:
    before, batch = given
    inside_B = np.asarray(left(before, batch, 0.0, before.lora))
    far_B = inside_B > 0
    assert 0 < far_B.sum() < ROWS
    after, terms = stepped(before, batch)
    assert float(terms["moved"]) == pytest.approx(far_B.mean())
    # The same as if the near rows weren't there, but for the number of rows in the mean.
    alone, _ = stepped(before, batch.replace(weight_B=jnp.asarray(far_B, jnp.float32)))
    shares = jax.tree.map(lambda a, b: (a - b) * ROWS, after.lora, before.lora)
    wanted = jax.tree.map(lambda a, b: (a - b) * far_B.sum(), alone.lora, before.lora)
    toy.close(shares, wanted)
    none, terms = stepped(before, batch.replace(weight_B=jnp.asarray(~far_B, jnp.float32)))
    assert float(terms["gem"]) == float(terms["grad_norm"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, none.lora, before.lora)


@pytest.mark.parametrize(("steps", "walked"), [(28, 10), (4, 1), (1, 1)])
def test_paths_end_after_ten_of_twenty_eight_steps(steps: int, walked: int) -> None:
    made = toy.ready("gem", steps=steps)
    assert made.settings.gem.share == 10 / 28
    assert pool.Paths.of(made, share=made.settings.gem.share).turns.steps == walked
