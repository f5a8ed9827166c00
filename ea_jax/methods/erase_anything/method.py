"""EraseAnything as a method: its pair of steps, its pool of paths and its search, made ready."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ea_jax import lora
from ea_jax.methods.erase_anything import inversions
from ea_jax.methods.erase_anything.batches import Batches, has_upper
from ea_jax.methods.erase_anything.steps import State, StepSettings, lower_step, upper_step
from ea_jax.methods.forward import Forward
from ea_jax.methods.method import Level, Method, Needs
from ea_jax.methods.optimisers import adamw
from ea_jax.methods.pool import first_pool
from ea_jax.methods.ready import Ready, fresh_lora
from ea_jax.methods.trajectories import Turns
from ea_jax.runtime import compiler
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import batch_parts, put, sharding
from ea_jax.settings import Settings


def needs(settings: Settings) -> Needs:
    """What its terms read; a term of weight 0 needs nothing."""
    loss = settings.loss
    found = Needs(
        contrast=bool(loss.rsc),
        concept=bool(loss.lora or loss.rsc or settings.data.inversions),
        keep=bool(loss.keep),
        columns=True,
    )
    return found._replace(check=inversions.require_words) if settings.data.inversions else found


def make(ready: Ready) -> Method:
    """The method of a run."""
    settings, mesh = _served(ready), ready.mesh
    replicated = sharding(mesh, ())
    static = step_settings(settings, ready.forward)
    turns = Turns(settings.data.pool, settings.optim.batch, len(static.sigmas) - 1)
    concept, keep = (ready.pictures.get(name) for name in ("concept", "keep"))
    batches = Batches(settings, ready.bank, turns, concept, keep, parts=batch_parts(mesh))
    search = None
    if settings.data.inversions and concept is not None:
        search = inversions.Search(
            ready.bank, concept, settings=settings, forward=static, mesh=mesh
        )
    lower, upper = optimisers(settings)

    def init(key: jax.Array) -> State:
        adapters = fresh_lora(key, settings, ready.template)
        shared = settings.optim.optimisers == "one"
        return State(
            lora=adapters,
            lower=lower.init(adapters),
            upper=None if shared else upper.init(adapters),
            pool_PSC=jnp.zeros((settings.data.pool, *static.latent_shape), jnp.float32),
            inversions_MND=None if search is None else jnp.zeros(search.shape, jnp.float32),
        )

    def before(state: State, weights: Any, step: int) -> State:
        if step == 0 and static.x_t == "pool":
            state = state.replace(pool_PSC=first_pool(ready, weights, turns, batches.path_row))
        numbers = inversions.due(settings, step, ready.bank.concepts)
        if search is None or not numbers:
            return state
        all_MND = on_host(state.inversions_MND).copy()
        fingerprint = None if step else ready.fingerprint
        all_MND[numbers] = search.find(weights, state.lora, numbers, fingerprint=fingerprint)
        return state.replace(inversions_MND=put(all_MND, replicated))

    def edit(state: State, weights: Any) -> Any:
        del weights
        scaled = lora.scaled(state.lora, static.lora_scale)
        return ready.edit(scaled)

    programs = jitted(settings, static, mesh)
    levels = (Level("lower", batches.lower, programs[0]),)
    if has_upper(settings):
        levels += (Level("upper", batches.upper, programs[1]),)
    return Method(settings.pairs, init, edit, levels, before)


def _served(ready: Ready) -> Settings:
    """The settings, with a weight of 0 where the bank has nothing that the term could read."""
    settings = ready.settings
    if settings.loss.rsc and not len(ready.bank.contrast_rows()):
        return dataclasses.replace(settings, loss=dataclasses.replace(settings.loss, rsc=0.0))
    return settings


def step_settings(settings: Settings, forward: Forward) -> StepSettings:
    """What is static about the pair of steps."""
    shared = {field.name: getattr(forward, field.name) for field in dataclasses.fields(Forward)}
    return StepSettings(**shared, loss=settings.loss, x_t=settings.data.x_t)


def optimisers(
    settings: Settings,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """AdamW for each level; both the same where there is one."""
    optim = settings.optim
    updates = settings.pairs * (2 if optim.optimisers == "one" and has_upper(settings) else 1)
    return (
        adamw(settings, optim.lr_lower, updates=updates),
        adamw(settings, optim.lr_upper, updates=updates),
    )


def jitted(settings: Settings, static: StepSettings, mesh: Any) -> tuple[Any, Any]:
    """The pair of steps as programs of (state, base weights, batch); the state is used up."""
    replicated = sharding(mesh, ())

    def program(step: Any, optimiser: optax.GradientTransformation) -> Any:
        bound = functools.partial(step, settings=static, optimiser=optimiser)
        return compiler.jit(bound, mesh, donate_argnums=0, out_shardings=(replicated, replicated))

    lower, upper = optimisers(settings)
    return program(lower_step, lower), program(upper_step, upper)
