"""GEM (Grebe et al. 2026, "Geometric Erasure by Contrastive Velocity Matching").

    L = relu(d(v, v_a) - eta d(v, v_c))

v is v(x_t, c), v_a and v_c are v_base(x_t, a) and v_base(x_t, c); d is the root of the mean squared
difference, so that a row's pull is as strong near its goal as far from it. Under the concept's
prompt c the student is pulled to the frozen model's velocity under the anchor a (`concept.anchor`;
the preset puts a neutral word in the concept's place), and pushed off the frozen model's under c
itself. With eta = 1 a row whose student is nearer to the anchor's is left alone: that is half of
the way.

x_t is on the student's own path for c, in the first steps of the schedule: the first 10 of 28.
The authors walk one path and update once on its 10 places, 25 times in all; an update here takes a
place on each of `optim.batch` paths. They walk at guidance 3, and ask teacher and student at
guidance 1. Nothing preserves.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ea_jax.flux.transformer import Weights, dtype_of
from ea_jax.methods import losses, pool
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.method import Method, Terms
from ea_jax.methods.ready import Ready
from ea_jax.methods.trained import State, descend, trained

# Keeps the gradient of the square root finite at 0, where a run starts.
_NEAREST = 1e-4


def make(ready: Ready) -> Method:
    """The method of a run."""
    section = ready.settings.gem
    walking = ready.forward.guided(section.path_guidance)
    paths = pool.Paths.of(dataclasses.replace(ready, forward=walking), share=section.share)
    step = functools.partial(
        train_step,
        eta=section.eta,
        forward=ready.forward.guided(section.guidance),
        walking=walking,
    )
    return trained(
        ready,
        step,
        lambda step: pool.Batch(**paths.fields(step)),
        name="gem",
        steps=section.steps,
        lr=section.lr,
        paths=paths,
    )


def distance(v_BSC: jax.Array, other_BSC: jax.Array) -> jax.Array:
    """d of the loss above, [B] float32 > 0."""
    return jnp.sqrt(losses.velocity_error(v_BSC, other_BSC) + _NEAREST**2)


def train_step(
    state: State,
    base: Weights,
    batch: pool.Batch,
    *,
    eta: float,
    forward: Forward,
    walking: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """The paths one step on, and one update on the loss above.

    Returns:
      The new state; the loss, the share of rows that it still moves and the gradient's norm,
      float32.
    """
    here = pool.place(state.pool_PSC, batch, forward, dtype_of(base))
    anchor, concept = pool.teachers(base, here, [batch.anchor, batch.text], forward)
    with jax.named_scope("walk"):
        way, _ = velocity_of(base, state.lora, here.x_BSC, here.t_B, batch.text, walking)

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        with jax.named_scope("student"):
            v, _ = velocity_of(base, adapters, here.x_BSC, here.t_B, batch.text, forward)
        left_B = jax.nn.relu(distance(v, anchor) - eta * distance(v, concept))
        total = losses.mean_of(left_B, batch.weight_B)
        moved = losses.mean_of((left_B > 0).astype(jnp.float32), batch.weight_B)
        return total, {"gem": total, "moved": moved}

    state, terms = descend(state, loss, optimiser)
    return state.replace(pool_PSC=pool.walked(state.pool_PSC, batch, here, way)), terms
