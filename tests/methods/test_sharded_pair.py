"""The pair of steps split over eight devices computes what one device computes."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_steps import Inputs, settings

from ea_jax import lora
from ea_jax.flux import axes
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import TransformerConfig, init_weights
from ea_jax.methods.erase_anything.steps import State, lower_step, upper_step
from ea_jax.runtime.flops import count_flops
from ea_jax.runtime.hlo import Hlo
from ea_jax.runtime.mesh import make_mesh, put_rows, sharding

pytestmark = pytest.mark.long

MODEL = TransformerConfig(
    in_channels=8,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=8,
    num_attention_heads=8,
    joint_attention_dim=16,
    pooled_projection_dim=16,
    guidance_embeds=True,
    axes_dims_rope=(4, 2, 2),
)
# (data, fsdp, tensor): the default at full size, and all axes together.
MESHES = [(2, 2, 2)]
MORE_MESHES = [(1, 1, 8), (8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 1, 4), (1, 4, 2)]
TERMS = {"esd": 1.0, "attn": 1.0, "lora": 1.0, "keep": 1.0, "rsc": 0.1}
BASE = jax.jit(init_weights, static_argnums=0)(MODEL, jax.random.key(0))


# Its first moments after one step are the gradients, times 1 - b1.
OPTIMISER = optax.adamw(1e-3)


@functools.cache
def compiled(shape):
    """A mesh (data, fsdp, tensor), and both steps on it."""
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), shape, strict=True)))
    replicated = sharding(mesh, ())
    s = settings(MODEL, **TERMS)
    steps = [
        jax.jit(
            functools.partial(fn, settings=s, optimiser=OPTIMISER),
            donate_argnums=0,
            out_shardings=(replicated, replicated),
        )
        for fn in (lower_step, upper_step)
    ]
    return mesh, steps


def pairs(shape, count, base=BASE):
    """Terms of each step, and the state after the last pair."""
    mesh, steps = compiled(shape)
    adapters = lora.init(jax.random.key(1), BASE, scope="dual_qk+image+single", rank=2)
    adapters = jax.tree.map(lambda x: x + 0.05, adapters)
    inputs = Inputs(MODEL)
    pool_PSC = inputs.array(8, inputs.tokens, MODEL.in_channels)
    state = State(adapters, OPTIMISER.init(adapters), OPTIMISER.init(adapters), pool_PSC)
    batches = inputs.lower(8), inputs.upper(8)
    found = []
    with jax.set_mesh(mesh):
        state = jax.device_put(state, sharding(mesh, ()))
        base = jax.device_put(base, axes.shardings(mesh, base))
        for number in range(count):
            for step, batch in zip(steps, batches, strict=True):
                batch = batch.replace(seed=jnp.uint32(number))
                state, terms = step(state, base, put_rows(mesh, batch))
                found.append(jax.device_get(terms))
    return found, jax.device_get(state)


@pytest.fixture(scope="module")
def alone():
    """What one device finds."""
    return pairs((1, 1, 1), 1)


@pytest.mark.parametrize(
    ("shape", "base"),
    [
        *((shape, BASE) for shape in MESHES),
        *(pytest.param(shape, BASE, marks=pytest.mark.slow) for shape in MORE_MESHES),
        pytest.param((2, 2, 2), unrolled(BASE), id="unrolled", marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else "",
)
def test_every_mesh_has_the_losses_and_gradients_of_one_device(alone, shape, base):
    expected, state = alone
    found, ours = pairs(shape, 1, base)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)
    for level in ("lower", "upper"):
        gradients = [optax.tree_utils.tree_get(getattr(s, level), "mu") for s in (ours, state)]
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[1]))
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5 * largest)
        jax.tree.map(close, *gradients)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, ours.lora, state.lora)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (1, 1, 8)], ids=str)
def test_twenty_pairs_end_in_one_lora(shape):
    _, expected = pairs((1, 1, 1), 20)
    _, found = pairs(shape, 20)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found.lora, expected.lora)


@pytest.mark.xla_text
def test_no_gather_on_an_fsdp_mesh_is_larger_than_a_block():
    """Weights travel block by block, inside the scan: all at once they would not fit.

    And it is they that travel, not the batch: each device does its own rows' operations.
    """
    mesh = make_mesh({"fsdp": 8})
    sizes, shares = [], []
    inputs = Inputs(MODEL)
    # L_rsc's prompts don't divide by eight.
    terms = TERMS | {"rsc": 0.0}
    adapters = lora.init(jax.random.key(1), BASE, scope="dual_qk", rank=2)
    optimiser = optax.sgd(1.0)
    pool_PSC = inputs.array(8, inputs.tokens, MODEL.in_channels)
    state = State(adapters, optimiser.init(adapters), optimiser.init(adapters), pool_PSC)
    with jax.set_mesh(mesh):
        base = jax.device_put(BASE, axes.shardings(mesh, BASE))
        state = jax.device_put(state, sharding(mesh, ()))
        for fn, batch in ((lower_step, inputs.lower(8)), (upper_step, inputs.upper(8))):
            bound = functools.partial(fn, settings=settings(MODEL, **terms), optimiser=optimiser)
            arguments = (state, base, put_rows(mesh, batch))
            text = jax.jit(bound).lower(*arguments).compile().as_text()
            shares.append(Hlo(text).flops() / count_flops(bound, *arguments))
            for dims in re.findall(r"= \w+\[([\d,]*)\][^=]* all-gather(?:-start)?\(", text):
                sizes.append(int(np.prod([int(d) for d in dims.split(",") if d])))
    blocks = [BASE[name] for name in ("transformer_blocks", "single_transformer_blocks")]
    largest = max(leaf[0].size for block in blocks for leaf in jax.tree.leaves(block))
    assert sizes, "an fsdp mesh gathers weights"
    assert max(sizes) <= largest
    assert max(shares) < 1.02 / 8


@pytest.mark.slow
def test_gathered_weights_are_not_kept_for_the_backward_pass():
    """The gradient's temporaries don't grow with the number of blocks by a block's weights."""
    temporaries, optimiser = [], optax.sgd(1.0)
    for blocks in (2, 10):
        wide = dataclasses.replace(MODEL, num_layers=blocks, num_single_layers=blocks)
        wide = dataclasses.replace(wide, attention_head_dim=16, axes_dims_rope=(8, 4, 4))
        weights = jax.jit(init_weights, static_argnums=0)(wide, jax.random.key(0))
        adapters = lora.init(jax.random.key(1), weights, scope="dual_qk", rank=2)
        inputs, mesh = Inputs(wide), make_mesh({"fsdp": 8})
        step = functools.partial(
            lower_step,
            settings=dataclasses.replace(settings(wide), remat="none"),
            optimiser=optimiser,
        )
        state = State(
            adapters, optimiser.init(adapters), None, inputs.array(8, 6, wide.in_channels)
        )
        with jax.set_mesh(mesh):
            given = (
                jax.device_put(state, sharding(mesh, ())),
                jax.device_put(weights, axes.shardings(mesh, weights)),
                put_rows(mesh, inputs.lower(8)),
            )
            compiled = jax.jit(step).lower(*given).compile()
        temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
    block = jax.tree.map(lambda leaf: leaf[0], weights["transformer_blocks"])
    bytes_of_block = sum(leaf.nbytes for leaf in jax.tree.leaves(block))
    assert (temporaries[1] - temporaries[0]) / 8 < 0.5 * bytes_of_block
