"""GEM (Grebe et al. 2026, "Geometric Erasure by Contrastive Velocity Matching").

    L = relu(d(v, v_a) - d(v, v_c) + m d(v_a, v_c))

v is v(x_t, c), v_a and v_c are v_base(x_t, a) and v_base(x_t, c); d is the mean squared difference.
Under the concept's prompt c the student is pulled to the frozen model's velocity under the anchor a
(`concept.anchor`; the preset puts a neutral word in the concept's place), and pushed off the frozen
model's under c itself. A row whose student is nearer to the anchor's is left alone. That is half of
the way; the margin m is ours (the paper's is 0), and with m = 1 it goes on until the student is
there.

x_t is on the frozen model's own path for c, in the first steps of the schedule: in the paper the
first 10 of 28, here a share of it. Nothing preserves.
"""

from __future__ import annotations

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


def make(ready: Ready) -> Method:
    """The method of a run."""
    section = ready.settings.gem
    paths = pool.Paths.of(ready, share=section.share)
    return trained(
        ready,
        functools.partial(train_step, margin=section.margin, forward=ready.forward),
        lambda step: pool.Batch(**paths.fields(step)),
        name="gem",
        steps=section.steps,
        lr=section.lr,
        paths=paths,
    )


def train_step(
    state: State,
    base: Weights,
    batch: pool.Batch,
    *,
    margin: float,
    forward: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """One update on the loss above, and the paths one step on.

    Returns:
      The new state; the loss, the share of rows that it still moves and the gradient's norm,
      float32.
    """
    here = pool.place(state.pool_PSC, batch, forward, dtype_of(base))
    anchor, concept = pool.teachers(base, here, [batch.anchor, batch.text], forward)
    apart_B = losses.velocity_error(anchor, concept)

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        with jax.named_scope("student"):
            v, _ = velocity_of(base, adapters, here.x_BSC, here.t_B, batch.text, forward)
        pull_B, push_B = (losses.velocity_error(v, teacher) for teacher in (anchor, concept))
        left_B = jax.nn.relu(pull_B - push_B + margin * apart_B)
        total = losses.mean_of(left_B, batch.weight_B)
        moved = losses.mean_of((left_B > 0).astype(jnp.float32), batch.weight_B)
        return total, {"gem": total, "moved": moved}

    state, terms = descend(state, loss, optimiser)
    return state.replace(pool_PSC=pool.walked(state.pool_PSC, batch, here, concept)), terms
