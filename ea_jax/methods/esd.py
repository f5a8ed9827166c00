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
import numpy as np
import optax
from flax import struct

from ea_jax import lora
from ea_jax.concepts.bank import draw
from ea_jax.flux import euler
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import losses, trajectories
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.method import Level, Method, Needs, Terms
from ea_jax.methods.optimisers import adamw, update
from ea_jax.methods.pictures import FIRST_SEED
from ea_jax.methods.pool import first_pool
from ea_jax.methods.ready import Ready, fresh_lora
from ea_jax.methods.trajectories import Turns
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import batch_parts, pad_rows, sharding
from ea_jax.runtime.streams import normal, stream
from ea_jax.settings import Settings

_PATH, _NOISE = 301, 302  # streams of its own


class State(struct.PyTreeNode):
    """Adapters, their optimiser's state, and the pool's latents [P, S, C] in float32."""

    lora: Any
    optimiser: optax.OptState
    pool_PSC: jax.Array


class Batch(struct.PyTreeNode):
    """One step's places in the pool, and its prompts.

    Attributes:
      member_B, fresh_B, index_B, weight_B: see `erase_anything.steps.LowerBatch`.
      text, anchor, empty: sentences with the concept, without it, and the empty prompt.
      seed: uint32, of the noise.
    """

    member_B: jax.Array
    fresh_B: jax.Array
    index_B: jax.Array
    weight_B: jax.Array
    text: Text
    anchor: Text
    empty: Text
    seed: jax.Array


def needs(settings: Settings) -> Needs:
    """Prompts and weights, nothing besides."""
    del settings
    return Needs()


def make(ready: Ready) -> Method:
    """The method of a run."""
    settings, forward = ready.settings, ready.forward
    section, seed = settings.esd, settings.optim.seed
    # Of teacher, student and paths alike.
    forward = dataclasses.replace(forward, guidance=settings.loss.teacher_guidance)
    turns = Turns(settings.data.pool, settings.optim.batch, len(forward.sigmas) - 1)
    steps = section.steps * len(settings.concept.named)
    optimiser = adamw(settings, section.lr, updates=steps)

    def path_row(member: int, path: int) -> int:
        return draw(ready.bank.rows(), seed, _PATH, member, path)

    def init(key: jax.Array) -> State:
        adapters = fresh_lora(key, settings, ready.template)
        pool_PSC = jnp.zeros((settings.data.pool, *forward.latent_shape), jnp.float32)
        return State(adapters, optimiser.init(adapters), pool_PSC)

    def before(state: State, weights: Weights, step: int) -> State:
        if step:
            return state
        return state.replace(pool_PSC=first_pool(ready, weights, turns, path_row))

    def batch(step: int) -> Batch:
        visits = turns.visits(step)
        rows = [path_row(visit.member, visit.round) for visit in visits]
        content = {
            "member_B": np.array([visit.member for visit in visits], np.int32),
            "fresh_B": np.array([visit.fresh for visit in visits], bool),
            "index_B": np.array([visit.index for visit in visits], np.int32),
            "text": ready.bank.text("target", rows),
            "anchor": ready.bank.text("anchor", rows),
            "empty": ready.bank.text("empty", [0] * len(rows)),
        }
        padded, weight_B = pad_rows(content, batch_parts(ready.mesh))
        noise: Any = np.uint32(stream(seed, _NOISE, step).integers(FIRST_SEED, 2**32))
        return Batch(weight_B=weight_B, seed=noise, **padded)

    def edit(state: State, weights: Weights) -> Any:
        del weights
        return ready.edit(lora.scaled(state.lora, forward.lora_scale))

    replicated = sharding(ready.mesh, ())
    bound = functools.partial(train_step, eta=section.eta, forward=forward, optimiser=optimiser)
    program = compiler.jit(
        bound, ready.mesh, donate_argnums=0, out_shardings=(replicated, replicated)
    )
    return Method(steps, init, edit, (Level("esd", batch, program),), before)


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
    dtype = dtype_of(base)
    levels = euler.levels(forward.sigmas, dtype)
    t_B, delta_B = levels.time_Z[batch.index_B], levels.delta_Z[batch.index_B]
    noise_BSC = normal(jax.random.key(batch.seed), (len(batch.member_B), *state.pool_PSC.shape[1:]))
    x_BSC = trajectories.entered(state.pool_PSC, batch.member_B, batch.fresh_B, noise_BSC, dtype)
    three = jax.tree.map(lambda *rows: jnp.concatenate(rows), batch.anchor, batch.text, batch.empty)
    with jax.named_scope("teacher"):
        v, _ = velocity_of(
            base,
            None,
            jnp.tile(x_BSC, (3, 1, 1)),
            jnp.tile(t_B, 3),
            three,
            forward,
        )
    anchor, concept, empty = jnp.split(v.astype(jnp.float32), 3)
    target = anchor - eta * (concept - empty)

    def loss(adapters: Any) -> jax.Array:
        with jax.named_scope("student"):
            v, _ = velocity_of(base, adapters, x_BSC, t_B, batch.text, forward)
        return losses.mean_of(losses.velocity_error(v, target), batch.weight_B)

    total, grads = jax.value_and_grad(loss)(state.lora)
    adapters, opt_state = update(state.lora, grads, state.optimiser, optimiser)
    next_BSC = euler.step(x_BSC, v[len(x_BSC) : 2 * len(x_BSC)], delta_B[:, None, None])
    pool_PSC = trajectories.moved(state.pool_PSC, batch.member_B, batch.weight_B, next_BSC)
    return State(adapters, opt_state, pool_PSC), {
        "esd": total,
        "grad_norm": optax.tree.norm(grads),
    }
