"""ESD's loss is its equation, its paths are the frozen model's, and only adapters move."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trained as toy
from test_inversions import BALL
from toy_steps import BASE, OPTIMISER, SIGMAS, SMALL, Inputs

from ea_jax.flux import euler
from ea_jax.methods import esd, pool
from ea_jax.methods.trained import State
from ea_jax.methods.trajectories import Visit
from ea_jax.runtime.streams import normal


def batch(index: int, *, fresh: bool) -> esd.Batch:
    inputs = Inputs()
    return esd.Batch(**toy.places(index, inputs, fresh=fresh), empty=inputs.text(2))


@functools.cache
def program(eta: float) -> Any:
    return jax.jit(
        functools.partial(esd.train_step, eta=eta, forward=toy.FORWARD, optimiser=OPTIMISER)
    )


def stepped(before: State, given: esd.Batch, eta: float = 1.5):
    return program(eta)(before, BASE, given)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_the_loss_is_the_equation(eta: float) -> None:
    x_BSC = Inputs().array(2, 6, SMALL.in_channels)
    before, given = toy.state(x_BSC), batch(1, fresh=False)

    def v(adapters, text):
        return np.asarray(toy.velocity(adapters, x_BSC, SIGMAS[1], text), np.float64)

    concept, anchor, empty = (v(None, text) for text in (given.text, given.anchor, given.empty))
    wanted = np.square(v(before.lora, given.text) - (anchor - eta * (concept - empty))).mean()
    _, terms = stepped(before, given, eta)
    assert float(terms["esd"]) == pytest.approx(wanted, rel=1e-5)


def test_paths_are_the_frozen_model_s_whatever_the_adapters() -> None:
    now = toy.state(jnp.zeros((2, 6, SMALL.in_channels)))
    for index in range(3):
        given = batch(index, fresh=index == 0)
        now, _ = stepped(now, given)
    noise_BSC = normal(jax.random.key(jnp.uint32(5)), (2, 6, SMALL.in_channels))
    frozen = euler.follow(
        lambda x, t: toy.velocity(None, x, t, given.text),
        noise_BSC,
        SIGMAS,
        3,
        dtype=jnp.float32,
    )
    np.testing.assert_allclose(now.pool_PSC, frozen, atol=1e-5)


def test_a_row_that_fills_up_neither_counts_nor_moves_a_path() -> None:
    before, given = toy.state(Inputs().array(2, 6, SMALL.in_channels)), batch(1, fresh=False)
    after, _ = stepped(before, given.replace(weight_B=jnp.array([1.0, 0.0])))
    assert not np.array_equal(after.pool_PSC[0], before.pool_PSC[0])
    np.testing.assert_array_equal(after.pool_PSC[1], before.pool_PSC[1])
    assert not np.array_equal(jax.tree.leaves(after.lora)[0], jax.tree.leaves(before.lora)[0])


def test_a_visit_trains_its_paths_sentence_and_concepts_come_equally_often() -> None:
    """A concept with a synonym has twice the rows of another, and no more paths."""
    two = [
        dataclasses.replace(BALL, also=("football",), synonyms=()),
        dataclasses.replace(BALL, word="helmet", synonyms=(), prompts=("a {}", "a photo of a {}")),
    ]
    made = toy.ready("esd", concepts=two)
    paths, bank = pool.Paths.of(made), made.bank
    rows = np.array([paths.row(member, path) for member in range(4) for path in range(100)])
    assert 160 < (bank.concept_G[rows] == 0).sum() < 240
    names = set()
    for index in range(40):
        row = paths.visit_row(Visit(member=1, index=index, round=2))
        kept = (bank.concept_G[row], bank.sentence_G[row])
        assert kept == (bank.concept_G[paths.row(1, 2)], bank.sentence_G[paths.row(1, 2)])
        names.add(bank.texts("target")[row])
    assert len(names) > 1
