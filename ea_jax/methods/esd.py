"""ESD (Gandikota et al. 2023, "Erasing Concepts from Diffusion Models"), for flow matching.

    L = || v(x_t, c) - (v_base(x_t, a) - eta (v_base(x_t, c) - v_base(x_t, empty))) ||^2

The student's velocity under the concept's prompt c is pulled to the frozen model's under the anchor
a, and away from the concept by negative guidance. x_t lies on the frozen model's own path for c: a
pool of such paths, which the teacher's velocity carries on. Nothing preserves.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import losses, pool
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.method import Method, Terms
from ea_jax.methods.ready import Ready
from ea_jax.methods.trained import State, descend, trained


class Batch(pool.Batch):
    """Places in the pool and their prompts; `empty` is the empty prompt."""

    empty: Text


def make(ready: Ready) -> Method:
    """The method of a run."""
    section = ready.settings.esd
    # Of teacher, student and paths alike.
    guidance = ready.settings.loss.teacher_guidance
    forward = dataclasses.replace(ready.forward, guidance=guidance)
    paths = pool.Paths.of(dataclasses.replace(ready, forward=forward))

    def batch(step: int) -> Batch:
        return Batch(**fields(paths, step))

    step = functools.partial(train_step, eta=section.eta, forward=forward)
    return trained(ready, step, batch, name="esd", steps=section.steps, lr=section.lr, paths=paths)


def fields(paths: pool.Paths, step: int) -> dict[str, Any]:
    """What a `Batch` holds at a step, from 0."""
    found = paths.fields(step)
    empty = paths.ready.bank.text("empty", [0] * len(found["weight_B"]))
    return {**found, "empty": empty}


def targets(
    base: Weights, batch: Batch, here: pool.Place, *, eta: float, forward: Forward
) -> tuple[jax.Array, jax.Array]:
    """Where the student is pulled to, and the velocity that its paths go on with, [B, S, C]."""
    teachers = pool.teachers(base, here, [batch.anchor, batch.text, batch.empty], forward)
    anchor, concept, empty = (v.astype(jnp.float32) for v in teachers)
    return anchor - eta * (concept - empty), teachers[1]


def train_step(
    state: State,
    base: Weights,
    batch: Batch,
    *,
    eta: float,
    forward: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """One update on the loss above, and the paths one step on.

    Returns:
      The new state; the loss and the gradient's norm, float32.
    """
    here = pool.place(state.pool_PSC, batch, forward, dtype_of(base))
    target, concept = targets(base, batch, here, eta=eta, forward=forward)

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        with jax.named_scope("student"):
            v, _ = velocity_of(base, adapters, here.x_BSC, here.t_B, batch.text, forward)
        error = losses.mean_of(losses.velocity_error(v, target), batch.weight_B)
        return error, {"esd": error}

    state, terms = descend(state, loss, optimiser)
    return state.replace(pool_PSC=pool.walked(state.pool_PSC, batch, here, concept)), terms
