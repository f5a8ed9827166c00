"""What a pair of steps costs: operations, traces, memory. Counted and compiled, hardly run."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from toy_steps import BASE, OPTIMISER, SMALL, Inputs, settings

from ea_jax import lora
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import TransformerConfig, abstract_weights, velocity
from ea_jax.methods.erase_anything.steps import State, lower_step, upper_step
from ea_jax.runtime.flops import count_flops


@pytest.mark.parametrize(
    ("fn", "term", "rest"),
    [
        (lower_step, "esd", {"attn": 1.0}),
        (upper_step, "lora", {"rsc": 1.0}),
        pytest.param(upper_step, "keep", {"lora": 1.0}, marks=pytest.mark.slow),
        pytest.param(upper_step, "rsc", {"keep": 1.0}, marks=pytest.mark.slow),
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


def test_the_last_block_leaves_out_what_only_text_rows_would_have():
    """Where blocks are unrolled: their queries, MLP, projection and rows of the map."""
    inputs = Inputs()
    x, text = inputs.array(1, 6, 8), inputs.text(1)

    def flops(base):
        run = lambda text: velocity(  # noqa: E731
            base, SMALL, x, jnp.ones(1), text, grid=(2, 3), guidance_B=jnp.ones(1)
        )[0]
        return count_flops(run, text)

    D, T, S = SMALL.width, text.t5_BTD.shape[1], x.shape[1]
    products = T * (D * D + D * 4 * D + 5 * D * D) + 2 * T * (T + S) * D
    assert flops(BASE) - flops(unrolled(BASE)) == 2 * products


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


@pytest.mark.parametrize(
    ("keep", "bar"), [pytest.param(False, 12.5, marks=pytest.mark.slow), (True, 13.5)]
)
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
