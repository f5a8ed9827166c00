"""The pair of steps on a small random model: what moves, what stays, what it costs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ea_jax import lora
from ea_jax.flux.attention import Columns
from ea_jax.flux.transformer import (
    Text,
    TransformerConfig,
    abstract_weights,
    init_weights,
    velocity,
)
from ea_jax.methods.erase_anything import (
    Contrast,
    LowerBatch,
    Pictures,
    State,
    StepSettings,
    UpperBatch,
    lower_step,
    upper_step,
)
from ea_jax.runtime.flops import count_flops
from ea_jax.settings import LossSettings

SMALL = TransformerConfig(
    in_channels=8,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=12,
    pooled_projection_dim=10,
    guidance_embeds=True,
    axes_dims_rope=(4, 2, 2),
)
LOSS = LossSettings(
    esd=1.0, attn=0.0, lora=0.0, keep=0.0, rsc=0.0, eta=1.0, teacher="base",
    teacher_guidance=3.5, attn_form="mass", attn_blocks="all", attn_queries="all",
    rsc_form="intent", tau=0.07, features="shared", rsc_t_min=0.7, t_draw="uniform",
)  # fmt: skip
SIGMAS = (1.0, 0.7, 0.3, 0.0)
OPTIMISER = optax.sgd(1.0)
T, N, K = 6, 2, 3


def settings(model=SMALL, grid=(2, 3), **loss) -> StepSettings:
    return StepSettings(
        model=model, grid=grid, sigmas=SIGMAS, loss=dataclasses.replace(LOSS, **loss)
    )


class Inputs:
    """Arrays of the right shapes: random ones, or shapes alone."""

    def __init__(self, model=SMALL, tokens=6, text=T, abstract=False):
        self.model, self.tokens, self.text_length, self.abstract = model, tokens, text, abstract
        self.rng = np.random.default_rng(0)

    def array(self, *shape, dtype=jnp.float32):
        if self.abstract:
            return jax.ShapeDtypeStruct(shape, dtype)
        return jnp.asarray(self.rng.normal(size=shape), dtype)

    def text(self, rows):
        return Text(
            self.array(rows, self.text_length, self.model.joint_attention_dim),
            self.array(rows, self.model.pooled_projection_dim),
        )

    def columns(self, rows):
        if self.abstract:
            shape = (rows, N)
            return Columns(
                jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool)
            )
        return Columns(jnp.tile(jnp.array([[1, 2]]), (rows, 1)), jnp.ones((rows, N), bool))

    def lower(self, rows=2, weight=None):
        return LowerBatch(
            member_B=jnp.arange(rows),
            fresh_B=jnp.arange(rows) == 0,
            index_B=jnp.arange(rows) % 3,
            weight_B=jnp.ones(rows) if weight is None else weight,
            text=self.text(rows),
            columns=self.columns(rows),
            anchor=self.text(rows),
            seed=jnp.uint32(5),
        )

    def pictures(self, rows=1):
        latent = self.array(rows, self.tokens, self.model.in_channels)
        return Pictures(latent, self.text(rows), jnp.ones(rows))

    def upper(self, rows=1):
        contrast = Contrast(
            self.array(1, self.tokens, self.model.in_channels),
            self.text(1),
            self.columns(1),
            self.text(1 + K),
            self.columns(1 + K),
        )
        return UpperBatch(self.pictures(rows), self.pictures(rows), contrast, jnp.uint32(6))

    def state(self, rows=2, rank=2, moved=True):
        adapters = lora.init(jax.random.key(1), BASE, scope="dual_qk", rank=rank)
        if moved:  # B is zero at the start, and then A has no gradient
            adapters = jax.tree.map(lambda x: x + 0.1, adapters)
        opt = OPTIMISER.init(adapters)
        return State(adapters, opt, opt, self.array(rows, self.tokens, self.model.in_channels))


BASE = init_weights(SMALL, jax.random.key(0))


def step(fn, state, batch, s):
    return jax.jit(functools.partial(fn, settings=s, optimiser=OPTIMISER))(state, BASE, batch)


def moved(before, after):
    """Paths of the leaves that changed, all of them to finite numbers."""
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    return {
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
        )
        if not np.array_equal(a, b)
    }


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
    v, _ = velocity(
        BASE, SMALL, x, t, batch.text, grid=s.grid, guidance_B=jnp.full(2, 3.5), lora=state.lora
    )
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


def test_the_upper_step_counts_each_term_with_its_weight():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.upper()
    _, terms = step(upper_step, state, batch, settings(lora=0.1, keep=2.0, rsc=0.3))
    expected = 0.1 * terms["lora"] + 2.0 * terms["keep"] + 0.3 * terms["rsc"]
    np.testing.assert_allclose(terms["total"], expected, rtol=1e-5)


@pytest.mark.parametrize("form", ["intent", "printed", "release"])
@pytest.mark.parametrize("features", ["shared", "denoise"])
def test_every_form_of_rsc_moves_the_lora(form, features):
    inputs = Inputs()
    state = inputs.state()
    after, terms = step(
        upper_step, state, inputs.upper(), settings(rsc=1.0, rsc_form=form, features=features)
    )
    assert jnp.isfinite(terms["rsc"])
    assert 0 < terms["grad_norm"] < jnp.inf
    assert moved(state.lora, after.lora)


def test_a_path_that_is_sampled_anew_ends_where_the_samplers_path_does():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower(rows=1)
    batch = batch.replace(index_B=jnp.array([2]))
    resampled = dataclasses.replace(settings(attn=1.0, esd=0.0), x_t="resample")
    _, terms = step(lower_step, state, batch, resampled)
    x = jax.random.normal(jax.random.key(batch.seed), (1, 6, 8))
    for i in range(2):
        v, _ = velocity(
            BASE, SMALL, x, jnp.full(1, SIGMAS[i]), batch.text, grid=(2, 3),
            guidance_B=jnp.full(1, 3.5), lora=state.lora,
        )  # fmt: skip
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * v
    pooled = batch.replace(fresh_B=jnp.array([False]))
    _, expected = step(lower_step, state.replace(pool_PSC=x), pooled, settings(attn=1.0, esd=0.0))
    np.testing.assert_allclose(terms["attn"], expected["attn"], rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "blocks", "queries"),
    [("mass", "all", "all"), ("sum", "all", "image"), ("release", "last", "all")],
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
    _, cols = velocity(
        BASE, SMALL, state.pool_PSC, t_B, batch.text, grid=(2, 3),
        guidance_B=jnp.full(2, 3.5), lora=state.lora, columns=batch.columns,
    )  # fmt: skip
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


def test_jit_changes_no_number():
    inputs = Inputs()
    state, batch, s = inputs.state(), inputs.lower(), settings(attn=0.1)
    after, terms = step(lower_step, state, batch, s)
    plain, plain_terms = lower_step(state, BASE, batch, settings=s, optimiser=OPTIMISER)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5)
    jax.tree.map(close, terms, plain_terms)
    jax.tree.map(close, after.lora, plain.lora)


@pytest.mark.parametrize(
    ("fn", "term", "rest"),
    [
        (lower_step, "esd", {"attn": 1.0}),
        (upper_step, "lora", {"rsc": 1.0}),
        (upper_step, "keep", {"lora": 1.0}),
        (upper_step, "rsc", {"keep": 1.0}),
    ],
)
def test_a_term_of_weight_0_costs_nothing(fn, term, rest):
    """Its work is not traced at all: without it the count is that of the other terms alone."""
    inputs = Inputs()
    batch = inputs.lower() if fn is lower_step else inputs.upper()

    def flops(**loss):
        bound = functools.partial(fn, settings=settings(**loss), optimiser=OPTIMISER)
        return count_flops(bound, inputs.state(), BASE, batch)

    none = {"esd": 0.0, "attn": 0.0} if fn is lower_step else {}
    without, with_it = flops(**{**none, **rest}), flops(**{**none, **rest, term: 1.0})
    forward = count_flops(
        lambda text: velocity(
            BASE, SMALL, inputs.array(1, 6, 8), jnp.ones(1), text, grid=(2, 3),
            guidance_B=jnp.ones(1),
        )[0],
        inputs.text(1),
    )  # fmt: skip
    assert with_it - without > 0.9 * forward


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
    after, _ = lower_step(state, BASE, inputs.lower(), settings=s, optimiser=lower)
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
    last, _ = upper_step(after, BASE, inputs.upper(), settings=s, optimiser=upper)
    assert largest(last.lora, after.lora) == pytest.approx(1e-2, rel=0.05)
    assert not moved(after.lower, last.lower)
    # One optimiser for both levels: its moments go from one to the other.
    shared = state.replace(upper=None)
    first, _ = lower_step(shared, BASE, inputs.lower(), settings=s, optimiser=lower)
    second, _ = upper_step(first, BASE, inputs.upper(), settings=s, optimiser=lower)
    assert second.upper is None
    assert moved(first.lower, second.lower)


def test_one_trace_serves_all_pairs():
    traces = []

    def counted(fn):
        def traced(state, base, batch):
            traces.append(fn.__name__)
            return fn(state, base, batch, settings=settings(keep=1.0), optimiser=OPTIMISER)

        return jax.jit(traced, donate_argnums=0)

    lower, upper, inputs = counted(lower_step), counted(upper_step), Inputs()
    state = inputs.state()
    for number in range(3):
        batch = inputs.lower().replace(index_B=jnp.array([number, 0]), seed=jnp.uint32(number))
        state, _ = lower(state, BASE, batch)
        state, _ = upper(state, BASE, inputs.upper())
    assert traces == ["lower_step", "upper_step"]


def test_a_step_neither_copies_the_base_nor_bakes_it_in():
    """Compiled for 24 blocks, nothing run: temporaries beside the base, constants in the program.

    The text and the picture are short, so that activations don't hide a copy of the base.
    """
    model = dataclasses.replace(
        SMALL, num_layers=12, num_single_layers=12, attention_head_dim=32,
        num_attention_heads=4, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    base = abstract_weights(model)
    base_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(base))
    inputs = Inputs(model, abstract=True)
    adapters = jax.eval_shape(lambda: lora.init(jax.random.key(0), base, scope="dual_qk", rank=2))
    opt = jax.eval_shape(OPTIMISER.init, adapters)
    state = State(adapters, opt, opt, inputs.array(1, 6, 8))
    s = dataclasses.replace(settings(model, attn=0.1, keep=1.0, rsc=0.1), remat="block")
    for fn, batch in ((lower_step, inputs.lower(rows=1)), (upper_step, inputs.upper())):
        batch = batch.replace(seed=jax.ShapeDtypeStruct((), jnp.uint32))
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        bound = functools.partial(fn, settings=s, optimiser=OPTIMISER)
        lowered = jax.jit(bound, donate_argnums=0).lower(state, base, batch)
        memory = lowered.compile().memory_analysis()
        assert memory.argument_size_in_bytes > base_bytes
        assert memory.temp_size_in_bytes < 0.1 * base_bytes
        assert len(lowered.as_text()) < 0.1 * base_bytes


def test_what_is_saved_does_not_grow_with_the_base():
    inputs = Inputs()
    larger = abstract_weights(dataclasses.replace(SMALL, num_single_layers=20))
    adapters = jax.eval_shape(lambda: lora.init(jax.random.key(0), larger, scope="dual_qk", rank=2))
    assert jax.tree.map(jnp.shape, adapters) == jax.tree.map(jnp.shape, inputs.state().lora)


@pytest.mark.parametrize(("keep", "bar"), [(False, 12.5), (True, 13.5)])
def test_a_pair_on_flux_dev_costs_few_forwards(keep, bar):
    """Counted on the jaxpr at 512 px, 256 text tokens, batch 1; nothing is computed."""
    dev = TransformerConfig()
    base = abstract_weights(dev, jnp.bfloat16)
    inputs = Inputs(dev, tokens=1024, text=256, abstract=True)
    adapters = jax.eval_shape(lambda: lora.init(jax.random.key(0), base, scope="dual_qk", rank=8))
    pool = jax.ShapeDtypeStruct((4, 1024, 64), jnp.float32)
    state = State(adapters, OPTIMISER.init(adapters), OPTIMISER.init(adapters), pool)
    s = settings(
        dev, (32, 32), attn=0.1, rsc=0.1, lora=0.0 if keep else 0.1, keep=0.1 if keep else 0.0
    )
    bound = functools.partial
    pair = count_flops(
        bound(lower_step, settings=s, optimiser=OPTIMISER), state, base, inputs.lower(rows=1)
    ) + count_flops(bound(upper_step, settings=s, optimiser=OPTIMISER), state, base, inputs.upper())
    forward = count_flops(
        lambda base, x, text: velocity(
            base, dev, x, jnp.ones(1), text, grid=(32, 32), guidance_B=jnp.ones(1)
        )[0],
        base,
        inputs.array(1, 1024, 64),
        inputs.text(1),
    )
    assert forward == pytest.approx(17.7e12, rel=0.02)  # flux.md's count at 512 px, 256 tokens
    assert 8 < pair / forward <= bar
