"""One Euler step and one rule of times: training walks the path that painting walks."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_steps import BASE, SMALL, Inputs, settings

from ea_jax.flux import euler, sampler
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.schedule import Schedule
from ea_jax.methods import forward
from ea_jax.methods.erase_anything.steps import lower_step, upper_step
from ea_jax.methods.forward import velocity_of
from ea_jax.methods.trajectories import Turns
from ea_jax.runtime import compiler
from ea_jax.runtime.streams import normal

SIGMAS = np.array([1.0, 0.8, 0.5, 0.2, 0.0], np.float32)
FLUX = Schedule(shift=3.0, use_dynamic_shifting=True)
HALF = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BASE)
STILL = optax.sgd(0.0)


def toward(x, t):
    """A velocity field that depends on both x and t."""
    return 0.3 * x - t[:, None, None]


def by_hand(x, steps):
    for i in range(steps):
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * (0.3 * x - SIGMAS[i])
    return x


def follow(velocity, noise, steps):
    return euler.follow(velocity, noise, SIGMAS, steps, dtype=jnp.float32)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_path_takes_as_many_euler_steps_as_asked(steps):
    noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
    found = jax.jit(lambda i: follow(toward, noise, i))(steps)
    np.testing.assert_allclose(found, by_hand(noise, steps), rtol=1e-5)


def test_a_staggered_pool_stands_on_the_samplers_path():
    turns = Turns(members=4, batch=2, steps=4)
    noise = jax.random.normal(jax.random.key(0), (4, 3, 4))
    pool = follow(toward, noise, turns.offsets())
    for member in range(4):
        np.testing.assert_allclose(pool[member], by_hand(noise[member], member), rtol=1e-5)


def test_model_times_are_rounded_before_they_are_divided():
    sigmas = np.array([1.0, 0.75, 0.3], np.float32)
    assert euler.model_times(sigmas, np.float32) == pytest.approx(sigmas)
    # 750 lies between 748 and 752, and bfloat16 takes the even one: 0.752, then 0.75390625.
    # Rounded the other way round it would have stayed 0.75.
    rounded = euler.model_times(sigmas, jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    assert rounded.tolist() == [1.0, 0.75390625, 0.30078125]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_time_drawn_in_a_program_is_told_as_a_schedules_is(dtype):
    drawn = np.concatenate(
        [
            np.arange(1001, dtype=np.float32) / np.float32(1000),
            np.random.default_rng(0).uniform(size=5000).astype(np.float32),
            FLUX.sigmas(28, 1024),
            FLUX.sigmas(28, 4096),
        ]
    )
    program = jax.jit(functools.partial(euler.model_time, dtype=dtype))
    wanted = euler.model_times(drawn, dtype).astype(np.float32)
    np.testing.assert_array_equal(program(drawn), wanted)


def test_float32_tells_times_as_they_were_drawn():
    drawn = jax.random.uniform(jax.random.key(0), (1000,))
    assert euler.model_time(drawn, jnp.float32) is drawn


def test_float32_changes_no_time_of_flux_tinys_28_steps():
    sigmas = Pipeline("flux-tiny").sigmas(28, 64, 64)[:-1]
    np.testing.assert_array_equal(euler.model_times(sigmas, np.float32), sigmas)


def exactly(function, **options):
    """A program that rounds wherever its types say so, as any two of them must to be compared."""
    return jax.jit(function, compiler_options={"xla_allow_excess_precision": False}, **options)


@pytest.fixture(scope="module")
def case():
    inputs = Inputs()
    s = dataclasses.replace(settings(), sigmas=tuple(map(float, FLUX.sigmas(28, 1024))))
    return inputs, s, inputs.lower(2), inputs.state()


def painted(case, steps, monkeypatch):
    """What the sampler makes of the first member's noise in its first steps."""
    _, s, batch, state = case
    noise = normal(jax.random.key(batch.seed), state.pool_PSC.shape)
    monkeypatch.setattr(compiler, "jit", exactly)
    sampler._program.cache_clear()
    x_BSC, _ = sampler.sample(
        HALF, SMALL, noise, batch.text,
        sigmas=np.array(s.sigmas[: steps + 1]), grid=s.grid, guidance=s.guidance,
    )  # fmt: skip
    sampler._program.cache_clear()
    return np.asarray(x_BSC.astype(jnp.float32))


def test_in_bfloat16_a_pool_member_walks_the_samplers_path_bit_for_bit(case, monkeypatch):
    _, s, batch, state = case
    lower = exactly(functools.partial(lower_step, settings=s, optimiser=STILL))
    state = state.replace(lora=jax.tree.map(jnp.zeros_like, state.lora), lower=STILL.init(state))
    for step in range(28):
        places = {"index_B": jnp.full(2, step), "fresh_B": jnp.full(2, step == 0)}
        state, _ = lower(state, HALF, batch.replace(**places))
        if step in (12, 27):
            np.testing.assert_array_equal(state.pool_PSC, painted(case, step + 1, monkeypatch))


def test_in_bfloat16_paths_sampled_anew_are_the_samplers_bit_for_bit(case, monkeypatch):
    _, s, batch, state = case

    def path(base, noise, steps):
        velocity = lambda x, t: velocity_of(base, None, x, t, batch.text, s)[0]  # noqa: E731
        return euler.follow(velocity, noise, s.sigmas, steps, dtype=jnp.bfloat16)

    noise = normal(jax.random.key(batch.seed), state.pool_PSC.shape)
    found = exactly(path)(HALF, noise, 20)
    np.testing.assert_array_equal(found, painted(case, 20, monkeypatch))
    staggered = exactly(functools.partial(path, steps=np.array([20, 7])))(HALF, noise)
    np.testing.assert_array_equal(staggered[0], found[0])
    np.testing.assert_array_equal(staggered[1], painted(case, 7, monkeypatch)[1])


@pytest.mark.parametrize(
    ("level", "features"),
    [
        ("upper", "denoise"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("lower", "shared"), ("upper", "shared"), ("lower", "denoise"))
        ),
    ],
)
def test_in_bfloat16_every_model_call_of_a_pair_gets_a_rounded_time(monkeypatch, level, features):
    """Teacher, student, L_lora, L_keep and both kinds of features: none sees an exact time."""
    told = []

    def watch(module, name):
        real = getattr(module, name)

        def call(base, model, x_BSC, t_B, *rest, **options):
            jax.debug.callback(lambda t_B: told.append(np.asarray(t_B, np.float32)), t_B)
            return real(base, model, x_BSC, t_B, *rest, **options)

        monkeypatch.setattr(module, name, call)

    watch(forward, "velocity")
    watch(forward, "dual_columns")
    inputs = Inputs()
    s = settings(attn=1.0, lora=1.0, keep=1.0, rsc=1.0, features=features, t_draw="logit_normal")
    step, batch = {
        "lower": (lower_step, inputs.lower()),
        "upper": (upper_step, inputs.upper()),
    }[level]
    made = jax.jit(functools.partial(step, settings=s, optimiser=STILL))
    jax.block_until_ready(made(inputs.state(), HALF, batch))
    jax.effects_barrier()
    # Of the numbers that bfloat16 has, a time is one that times in 0..1000 lead to.
    allowed = euler.model_times(np.arange(0, 1000, 2**-9, dtype=np.float32) / 1000, jnp.bfloat16)
    assert len(told) >= 2
    assert np.isin(np.concatenate(told), allowed.astype(np.float32)).all()
