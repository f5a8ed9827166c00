"""A method that trains adapters in one program a step, by one loss: what all such methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import struct

from ea_jax import lora
from ea_jax.flux.transformer import Weights
from ea_jax.methods.method import Batch, Level, Method, Terms
from ea_jax.methods.optimisers import adamw, update
from ea_jax.methods.pool import Paths
from ea_jax.methods.ready import Ready, fresh_lora
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import sharding


class State(struct.PyTreeNode):
    """Adapters, their optimiser's state, and a pool's latents.

    Attributes:
      lora: float32 adapters.
      optimiser: of `adamw`.
      pool_PSC: float32; None for a method without paths.
    """

    lora: Any
    optimiser: optax.OptState
    pool_PSC: Any


def trained(
    ready: Ready,
    step: Callable[..., tuple[Any, Terms]],
    batch: Callable[[int], Batch],
    *,
    name: str,
    steps: int,
    lr: float,
    paths: Paths | None = None,
    state: Callable[..., Any] = State,
) -> Method:
    """The method of a run.

    Args:
      ready: what it is made of.
      step: (state, base weights, batch, optimiser=...) -> the new state, and terms for the log.
      batch: what it trains on at a step.
      name: of its one level.
      steps: for each word of a run.
      lr: learning rate of AdamW.
      paths: whose latents are in the state; None for a method without.
      state: of the fields of `State`, a run's state at its start.
    """
    settings, replicated = ready.settings, sharding(ready.mesh, ())
    steps = steps * len(settings.concept.named)
    optimiser = adamw(settings, lr, updates=steps)

    def init(key: jax.Array) -> Any:
        adapters = fresh_lora(key, settings, ready.template)
        return state(adapters, optimiser.init(adapters), paths and paths.blank())

    def before(state: Any, weights: Weights, step: int) -> Any:
        if step or paths is None:
            return state
        return state.replace(pool_PSC=paths.first(weights))

    def edit(state: Any, weights: Weights) -> Any:
        del weights
        return ready.edit(lora.scaled(state.lora, ready.forward.lora_scale))

    program = compiler.jit(
        functools.partial(step, optimiser=optimiser),
        ready.mesh,
        donate_argnums=0,
        out_shardings=(replicated, replicated),
    )
    return Method(steps, init, edit, (Level(name, batch, program),), before)


def descend(
    state: Any,
    loss: Callable[[Any], tuple[jax.Array, Terms]],
    optimiser: optax.GradientTransformation,
) -> tuple[Any, Terms]:
    """One update of a state's adapters.

    Args:
      state: a `State`, or one with more in it.
      loss: adapters -> what is minimised, and the terms it is made of.
      optimiser: of the adapters.
    Returns:
      The new state; the terms and the gradient's norm, float32.
    """
    grads, terms = jax.grad(loss, has_aux=True)(state.lora)
    adapters, optimiser_state = update(state.lora, grads, state.optimiser, optimiser)
    after = state.replace(lora=adapters, optimiser=optimiser_state)
    return after, {**terms, "grad_norm": optax.tree.norm(grads)}
