"""The pair of steps on a small random model: what moves, and what stays."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_steps import (
    BASE,
    OPTIMISER,
    SIGMAS,
    Inputs,
    T,
    forward,
    moved,
    program,
    settings,
    step,
)

from configs.soccer import get_config
from ea_jax import lora
from ea_jax.flux.stack import unrolled
from ea_jax.methods.erase_anything import method
from ea_jax.methods.erase_anything.steps import State, lower_step, upper_step
from ea_jax.settings import from_config

pytestmark = pytest.mark.long


def test_the_lower_step_moves_the_lora_and_the_pool_only():
    inputs = Inputs()
    state = inputs.state()
    after, terms = step(lower_step, state, inputs.lower(), settings(attn=0.5))
    assert len(moved(state.lora, after.lora)) == 4  # A and B of add_q_proj and add_k_proj
    assert moved(state.pool_PSC, after.pool_PSC)
    assert set(terms) == {"esd", "attn", "total", "grad_norm"}
    np.testing.assert_allclose(terms["total"], terms["esd"] + 0.5 * terms["attn"], rtol=1e-6)
    assert 0 < terms["attn"] < 1


def test_pool_members_move_by_the_students_own_velocity_and_fresh_ones_start_from_noise():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower()
    s = settings()
    after, _ = step(lower_step, state, batch, s)
    noise = jax.random.normal(jax.random.key(batch.seed), state.pool_PSC.shape)
    x = jnp.where(batch.fresh_B[:, None, None], noise, state.pool_PSC)
    sigmas = jnp.array(SIGMAS)
    t, following = sigmas[batch.index_B], sigmas[batch.index_B + 1]
    v, _ = forward(x, t, batch.text, state.lora)
    expected = x + (following - t)[:, None, None] * v
    np.testing.assert_allclose(after.pool_PSC, expected, rtol=1e-4, atol=1e-5)


def test_rows_that_fill_up_a_batch_change_nothing():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower(rows=1)
    doubled = jax.tree.map(lambda x: jnp.concatenate([x, x]) if x.ndim else x, batch)
    doubled = doubled.replace(weight_B=jnp.array([1.0, 0.0]))
    # The noise of row 0 has to be the same in both: take it from the pool.
    alone, _ = step(lower_step, state, batch.replace(fresh_B=jnp.array([False])), settings())
    filled, _ = step(lower_step, state, doubled.replace(fresh_B=jnp.zeros(2, bool)), settings())
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, alone.lora, filled.lora)
    close(alone.pool_PSC, filled.pool_PSC)


@pytest.mark.slow
def test_the_releases_teacher_cancels_the_negative_guidance():
    """With the LoRA on in the teacher, the gradient is that of MSE to the anchor's velocity."""
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower()
    frozen, _ = step(lower_step, state, batch, settings())
    student, _ = step(lower_step, state, batch, settings(teacher="student"))
    anchored, _ = step(lower_step, state, batch, settings(teacher="student", eta=0.0))
    change = lambda new: jax.tree.map(lambda a, b: np.asarray(a - b), new.lora, state.lora)  # noqa: E731
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-3, atol=1e-5),
        change(student),
        change(anchored),
    )
    assert moved(frozen.lora, student.lora)


def test_velocity_kept_is_zero_without_an_edit_and_positive_with_one():
    inputs = Inputs()
    batch = inputs.upper()
    for state, positive in ((inputs.state(moved=False), False), (inputs.state(), True)):
        _, terms = step(upper_step, state, batch, settings(keep=1.0))
        # Without an edit what is left is rounding: the two forwards are two programs.
        assert (float(terms["keep"]) > 1e-10) == positive


@pytest.mark.slow
def test_the_samplers_noise_levels_are_drawn_and_no_others():
    """A sampler of one step knows pure noise only: no picture shows through there."""
    inputs = Inputs()
    state, batch = inputs.state(), inputs.upper()
    other = batch.replace(keep=batch.keep.replace(latent_BSC=batch.keep.latent_BSC + 1))
    for draw, same in (("sampler", True), ("uniform", False)):
        s = dataclasses.replace(settings(keep=1.0, t_draw=draw), sigmas=(1.0, 0.0))
        kept = [step(upper_step, state, rows, s)[1]["keep"] for rows in (batch, other)]
        assert (kept[0] == kept[1]) == same


def test_the_upper_step_counts_each_term_with_its_weight():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.upper()
    _, terms = step(upper_step, state, batch, settings(lora=0.1, keep=2.0, rsc=0.3))
    expected = 0.1 * terms["lora"] + 2.0 * terms["keep"] + 0.3 * terms["rsc"]
    np.testing.assert_allclose(terms["total"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "features"),
    [
        ("printed", "denoise"),
        *(
            pytest.param(form, features, marks=pytest.mark.slow)
            for form in ("intent", "printed", "release")
            for features in ("shared", "denoise")
            if (form, features) != ("printed", "denoise")
        ),
    ],
)
def test_every_form_of_rsc_moves_the_lora(form, features):
    inputs = Inputs()
    state = inputs.state()
    after, terms = step(
        upper_step, state, inputs.upper(), settings(rsc=1.0, rsc_form=form, features=features)
    )
    assert jnp.isfinite(terms["rsc"])
    assert 0 < terms["grad_norm"] < jnp.inf
    assert moved(state.lora, after.lora)


@pytest.mark.slow
def test_a_path_that_is_sampled_anew_ends_where_the_samplers_path_does():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower(rows=1)
    batch = batch.replace(index_B=jnp.array([2]))
    resampled = dataclasses.replace(settings(attn=1.0, esd=0.0), x_t="resample")
    _, terms = step(lower_step, state, batch, resampled)
    x = jax.random.normal(jax.random.key(batch.seed), (1, 6, 8))
    for i in range(2):
        v, _ = forward(x, jnp.full(1, SIGMAS[i]), batch.text, state.lora)
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * v
    pooled = batch.replace(fresh_B=jnp.array([False]))
    _, expected = step(lower_step, state.replace(pool_PSC=x), pooled, settings(attn=1.0, esd=0.0))
    np.testing.assert_allclose(terms["attn"], expected["attn"], rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "blocks", "queries"),
    [
        ("mass", "all", "all"),
        ("sum", "all", "image"),
        pytest.param("release", "last", "all", marks=pytest.mark.slow),
    ],
)
def test_attention_is_summed_as_its_form_says(form, blocks, queries):
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower()
    batch = batch.replace(fresh_B=jnp.zeros(2, bool))
    _, terms = step(
        lower_step,
        state,
        batch,
        settings(attn=1.0, attn_form=form, attn_blocks=blocks, attn_queries=queries),
    )
    t_B = jnp.array(SIGMAS)[batch.index_B]
    _, cols = forward(state.pool_PSC, t_B, batch.text, state.lora, batch.columns)
    cols_LBHQN = np.asarray(cols, np.float64)
    if queries == "image":
        cols_LBHQN = cols_LBHQN[:, :, :, T:]
    if blocks == "last":
        cols_LBHQN = cols_LBHQN[-1:]
    rows_LB = {
        "mass": cols_LBHQN.sum(-1).mean((2, 3)),
        "sum": cols_LBHQN.sum((2, 3, 4)),
        "release": np.linalg.norm(cols_LBHQN, axis=2).sum((2, 3)),
    }[form]
    np.testing.assert_allclose(terms["attn"], rows_LB.mean(), rtol=1e-4)


@pytest.mark.slow
def test_jit_changes_no_number():
    inputs = Inputs()
    state, batch, s = inputs.state(), inputs.lower(), settings(attn=0.1)
    after, terms = step(lower_step, state, batch, s)
    plain, plain_terms = lower_step(state, BASE, batch, settings=s, optimiser=OPTIMISER)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5)
    jax.tree.map(close, terms, plain_terms)
    jax.tree.map(close, after.lora, plain.lora)


@pytest.mark.slow
@pytest.mark.parametrize("transposes", [True, False])
@pytest.mark.parametrize("level", ["lower", "upper"])
def test_unrolled_blocks_train_as_stacked_ones_do(level, transposes):
    inputs = Inputs()
    s = settings(attn=0.1, lora=1.0, keep=1.0, rsc=0.1)
    fn, batch = {"lower": (lower_step, inputs.lower()), "upper": (upper_step, inputs.upper())}[
        level
    ]
    state = inputs.state()
    stacked, stacked_terms = step(fn, state, batch, s)
    after, terms = program(fn, s)(state, unrolled(BASE, transposes=transposes), batch)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, terms, stacked_terms)
    jax.tree.map(close, after, stacked)
    assert moved(state.lora, after.lora)


def test_each_level_has_its_own_moments_and_frozen_adapters_stay():
    """Two AdamW as a run makes them, over adapters of which the scope holds a part."""
    inputs = Inputs()
    both = jax.tree.map(
        lambda x: x + 0.1, lora.init(jax.random.key(1), BASE, scope="dual_qk+image", rank=2)
    )

    def adamw(rate):
        groups = {"train": optax.adamw(rate), "frozen": optax.set_to_zero()}
        return optax.partition(groups, lambda tree: lora.labels(tree, "dual_qk"))

    lower, upper = adamw(1e-3), adamw(1e-2)
    state = State(both, lower.init(both), upper.init(both), inputs.array(2, 6, 8))
    s = settings(attn=0.1, keep=1.0)

    def run(fn, state, batch, optimiser):
        return jax.jit(functools.partial(fn, settings=s, optimiser=optimiser))(state, BASE, batch)

    after, _ = run(lower_step, state, inputs.lower(), lower)
    assert {path.split("'")[5] for path in moved(state.lora, after.lora)} == {
        "add_q_proj",
        "add_k_proj",
    }
    assert moved(state.lower, after.lower)
    assert not moved(state.upper, after.upper)
    # The first step of Adam is its learning rate, whatever the gradient's size.
    largest = lambda a, b: max(  # noqa: E731
        float(jnp.abs(x - y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert largest(after.lora, both) == pytest.approx(1e-3, rel=0.05)
    last, _ = run(upper_step, after, inputs.upper(), upper)
    assert largest(last.lora, after.lora) == pytest.approx(1e-2, rel=0.05)
    assert not moved(after.lower, last.lower)
    # One optimiser for both levels: its moments go from one to the other.
    shared, _ = run(upper_step, after.replace(upper=None), inputs.upper(), lower)
    assert shared.upper is None
    assert moved(after.lower, shared.lower)


def test_steps_grow_with_the_words_of_a_run():
    config = get_config("tiny").to_dict()
    config["concept"] |= {"word": None, "words": "cat,dog,hug"}
    config["optim"]["pairs"] = 8
    assert from_config(config).pairs == 24


@pytest.mark.parametrize(("optimisers", "updates"), [("two", 8), ("one", 16)])
def test_both_rates_fall_to_zero_in_the_runs_end(optimisers, updates):
    config = get_config("tiny+release" if optimisers == "one" else "tiny").to_dict()
    config["optim"] |= {"pairs": 8, "lr_decay": 0.25, "optimisers": optimisers, "weight_decay": 0.0}
    made = from_config(config)
    adapters = lora.init(jax.random.key(0), BASE, scope=made.lora.scope, rank=2)
    # Under a gradient that never changes, Adam moves by the rate itself.
    pull = jax.tree.map(jnp.ones_like, adapters)
    for optimiser, rate in zip(
        method.optimisers(made), (made.optim.lr_lower, made.optim.lr_upper), strict=True
    ):
        state, rates = optimiser.init(adapters), []
        for _ in range(updates):
            moves, state = optimiser.update(pull, state, adapters)
            rates.append(max(float(abs(move).max()) for move in jax.tree.leaves(moves)) / rate)
        falling = updates // 4
        expected = [1.0] * (updates - falling) + [1 - n / falling for n in range(falling)]
        np.testing.assert_allclose(rates, expected, atol=1e-4)
