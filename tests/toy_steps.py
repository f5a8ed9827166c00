"""The pair of steps on a small random model: its inputs, and what a step moves."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ea_jax import lora
from ea_jax.flux.columns import Columns
from ea_jax.flux.transformer import Text, TransformerConfig, init_weights, velocity
from ea_jax.methods.erase_anything.steps import (
    Contrast,
    LowerBatch,
    Pictures,
    State,
    StepSettings,
    UpperBatch,
)
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
            inversion_B=jnp.full(rows, -1),
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


# In one program: taken apart, each kind of leaf would be compiled by itself.
BASE = jax.jit(init_weights, static_argnums=0)(SMALL, jax.random.key(0))


@functools.cache
def program(fn, s):
    """One for all tests of the same settings."""
    return jax.jit(functools.partial(fn, settings=s, optimiser=OPTIMISER))


def step(fn, state, batch, s):
    return program(fn, s)(state, BASE, batch)


@jax.jit
def forward(x_BSC, t_B, text, lora, columns=None):
    """Velocity and columns of the model with adapters."""
    guidance_B = jnp.full(len(x_BSC), 3.5)
    return velocity(
        BASE, SMALL, x_BSC, t_B, text, grid=(2, 3), guidance_B=guidance_B, lora=lora,
        columns=columns,
    )  # fmt: skip


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
