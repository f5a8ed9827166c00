"""EraseAnything: a pair of steps on one LoRA, one that erases and one that preserves.

    lower level: w_esd L_esd + w_attn L_attn         (Eq. 2, 3)   forgets the concept
    upper level: w_lora L_lora + w_keep L_keep + w_rsc L_rsc      (Eq. 4, 5)   keeps the rest

Both are pure functions of (state, base weights, batch), to be jitted once with `settings` and
`optimiser` bound. Only the LoRA has gradients; the frozen model enters as an argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ea_jax.flux import euler
from ea_jax.flux.columns import Columns
from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import losses
from ea_jax.methods.forward import Forward, columns_of, velocity_of
from ea_jax.methods.method import Terms
from ea_jax.methods.optimisers import update
from ea_jax.methods.pictures import Pictures
from ea_jax.methods.trajectories import drawn, entered, moved, noised
from ea_jax.runtime.streams import normal
from ea_jax.settings import LossSettings

ATTENTION_FORMS: dict[str, Callable[..., jax.Array]] = {
    "mass": losses.attention_mass,
    "sum": losses.attention_sum,
    "release": losses.attention_norm,
}
RSC_FORMS: dict[str, Callable[..., jax.Array]] = {
    "intent": losses.rsc_intent,
    "printed": losses.rsc_printed,
    "release": losses.rsc_release,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings(Forward):
    """All that is static about the pair of steps.

    Attributes:
      loss: terms and their forms; a term of weight 0 is not computed.
      x_t: from the `pool`, or `resample`d from noise at every lower step.
    """

    loss: LossSettings
    x_t: str = "pool"


class State(struct.PyTreeNode):
    """What training changes: saved whole, and all that a resumed run needs beside its step.

    Attributes:
      lora: float32 adapters.
      lower, upper: optimiser states; `upper` is None where one optimiser serves both levels.
      pool_PSC: float32 latents of the trajectory pool.
      inversions_MND: float32, M inversions of N tokens each, zero where not yet searched; None
        where none are wanted. See `inversions` beside this module.
    """

    lora: Any
    lower: optax.OptState
    upper: optax.OptState | None
    pool_PSC: jax.Array
    inversions_MND: jax.Array | None = None


class LowerBatch(struct.PyTreeNode):
    """One lower step's prompts and places in the pool.

    Attributes:
      member_B: rows of the pool.
      fresh_B: True where a path starts from new noise.
      index_B: step of the schedule each row stands at.
      weight_B: 1 for real rows, 0 for rows that only fill up a sharded batch.
      text: sentences with the concept.
      columns: its tokens in them.
      inversion_B: the inversion that takes their places; -1 leaves the word.
      anchor: prompts without it.
      seed: uint32 for the step's noise.
    """

    member_B: jax.Array
    fresh_B: jax.Array
    index_B: jax.Array
    weight_B: jax.Array
    text: Text
    columns: Columns
    inversion_B: jax.Array
    anchor: Text
    seed: jax.Array


class Contrast(struct.PyTreeNode):
    """L_rsc's prompts: each sentence with the concept, a synonym, and irrelevant words.

    Attributes:
      latent_BSC: pictures whose noised form all prompts of a row see.
      text, columns: the concept's sentences, [B, ...].
      others, other_columns: [B W, ...], a row's synonym first, then its words.
    """

    latent_BSC: jax.Array
    text: Text
    columns: Columns
    others: Text
    other_columns: Columns


class UpperBatch(struct.PyTreeNode):
    """One upper step's pictures: `lora` for L_lora, `keep` for L_keep, `contrast` for L_rsc."""

    lora: Pictures | None
    keep: Pictures | None
    contrast: Contrast | None
    seed: jax.Array


def lower_step(
    state: State,
    base: Weights,
    batch: LowerBatch,
    *,
    settings: StepSettings,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """Erases: one update on w_esd L_esd + w_attn L_attn, and the pool moves on by one step.

    Returns:
      The new state, and each term (unweighted), the total and the gradient's norm, float32.
    """
    s = settings
    levels = euler.levels(s.sigmas, dtype_of(base))
    text = _with_inversions(state, batch)
    t_B, delta_B = levels.time_Z[batch.index_B], levels.delta_Z[batch.index_B]
    x_BSC = _start(state, base, batch, text, s)

    with jax.named_scope("teacher"):
        target = x_BSC  # not read without L_esd
        if s.loss.esd:
            teacher = state.lora if s.loss.teacher == "student" else None
            both = jax.tree.map(lambda a, c: jnp.concatenate([a, c]), batch.anchor, text)
            twice = lambda a: jnp.concatenate([a, a])  # noqa: E731
            v, _ = velocity_of(
                base, teacher, twice(x_BSC), twice(t_B), both, s, guidance=s.loss.teacher_guidance
            )
            target = losses.erasing_target(*jnp.split(v, 2), eta=s.loss.eta)

    def loss(lora):
        with jax.named_scope("student"):
            v, attn_LB = velocity_of(
                base,
                lora,
                x_BSC,
                t_B,
                text,
                s,
                columns=batch.columns if s.loss.attn else None,
                reduce=lambda cols, columns: _attention_loss(cols, columns, s),
            )
        terms = {}
        if s.loss.esd:
            with jax.named_scope("L_esd"):
                terms["esd"] = losses.mean_of(losses.velocity_error(v, target), batch.weight_B)
        if s.loss.attn:
            with jax.named_scope("L_attn"):
                blocks = attn_LB[-1:] if s.loss.attn_blocks == "last" else attn_LB
                terms["attn"] = losses.mean_of(blocks.mean(0), batch.weight_B)
        total = sum(getattr(s.loss, name) * term for name, term in terms.items())
        return total, ({**terms, "total": total}, v)

    grads, (terms, v) = jax.grad(loss, has_aux=True)(state.lora)
    lora, lower = update(state.lora, grads, state.lower, optimiser)
    pool_PSC = state.pool_PSC
    if s.x_t == "pool":
        next_BSC = euler.step(x_BSC, v, delta_B[:, None, None])
        pool_PSC = moved(pool_PSC, batch.member_B, batch.weight_B, next_BSC)
    terms["grad_norm"] = optax.tree.norm(grads)
    return state.replace(lora=lora, lower=lower, pool_PSC=pool_PSC), terms


def upper_step(
    state: State,
    base: Weights,
    batch: UpperBatch,
    *,
    settings: StepSettings,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """Preserves: one update on w_lora L_lora + w_keep L_keep + w_rsc L_rsc.

    Returns:
      The new state, and each term (unweighted), the total and the gradient's norm, float32.
    """
    s = settings
    noise_key, t_key, rsc_key = jax.random.split(jax.random.key(batch.seed), 3)
    kept = {name: getattr(batch, name) for name in ("lora", "keep") if getattr(s.loss, name)}
    pictures = None
    if kept:
        pictures = jax.tree.map(lambda *rows: jnp.concatenate(rows), *kept.values())
        seen = drawn(
            noise_key,
            t_key,
            pictures.latent_BSC,
            how=s.loss.t_draw,
            sigmas=s.sigmas,
            dtype=dtype_of(base),
        )

    def loss(lora):
        terms = {}
        if pictures is not None:
            with jax.named_scope("student"):
                v, _ = velocity_of(base, lora, seen.x_BSC, seen.t_B, pictures.text, s)
            row = 0
            for name, rows in kept.items():
                part = slice(row, row + len(rows.weight_B))
                row = part.stop
                with jax.named_scope(f"L_{name}"):
                    own = jax.tree.map(lambda each, part=part: each[part], seen)
                    if name == "lora":
                        target = own.velocity_BSC
                    else:
                        target, _ = velocity_of(base, None, own.x_BSC, own.t_B, rows.text, s)
                    error_B = losses.velocity_error(v[part], target)
                    terms[name] = losses.mean_of(error_B, rows.weight_B)
        if s.loss.rsc and batch.contrast is not None:
            with jax.named_scope("L_rsc"):
                terms["rsc"] = _contrast(lora, base, batch.contrast, rsc_key, s)
        total = sum(getattr(s.loss, name) * term for name, term in terms.items())
        return total, {**terms, "total": total}

    grads, terms = jax.grad(loss, has_aux=True)(state.lora)
    shared = state.upper is None
    opt_state = state.lower if shared else state.upper
    lora, opt_state = update(state.lora, grads, opt_state, optimiser)
    terms["grad_norm"] = optax.tree.norm(grads)
    return state.replace(lora=lora, **{"lower" if shared else "upper": opt_state}), terms


def _with_inversions(state: State, batch: LowerBatch) -> Text:
    """A lower step's sentences; in some rows an inversion takes the places of the concept."""
    if state.inversions_MND is None:
        return batch.text
    inversions_BND = state.inversions_MND[jnp.maximum(batch.inversion_B, 0)]
    placed_BTD = batch.columns.placed(batch.text.t5_BTD, inversions_BND)
    inverted_B11 = (batch.inversion_B >= 0)[:, None, None]
    return batch.text.replace(t5_BTD=jnp.where(inverted_B11, placed_BTD, batch.text.t5_BTD))


def _start(
    state: State, base: Weights, batch: LowerBatch, text: Text, s: StepSettings
) -> jax.Array:
    """x_t of a lower step: from the pool, fresh noise, or sampled anew down to t."""
    noise_key = jax.random.key(batch.seed)
    shape = (len(batch.member_B), *state.pool_PSC.shape[1:])
    noise_BSC = normal(noise_key, shape)
    if s.x_t == "resample":
        return euler.follow(
            lambda x, t: velocity_of(base, state.lora, x, t, text, s)[0],
            noise_BSC,
            s.sigmas,
            batch.index_B[0],
            dtype=dtype_of(base),
        )
    return entered(state.pool_PSC, batch.member_B, batch.fresh_B, noise_BSC, dtype_of(base))


def _attention_loss(cols_BHQN: jax.Array, columns: Columns, s: StepSettings) -> jax.Array:
    if s.loss.attn_queries == "image":
        cols_BHQN = cols_BHQN[:, :, -s.grid[0] * s.grid[1] :]
    return ATTENTION_FORMS[s.loss.attn_form](cols_BHQN, columns.mask_BN)


def _contrast(lora, base: Weights, batch: Contrast, key: jax.Array, s: StepSettings) -> jax.Array:
    """L_rsc: features of 1 + W prompts from truncated forwards; gradient through the concept's."""
    B = len(batch.latent_BSC)
    W = len(batch.other_columns.idx_BN) // B
    noise_key, t_key = jax.random.split(key)
    noise_BSC = normal(noise_key, batch.latent_BSC.shape)
    frozen = jax.lax.stop_gradient(lora)
    dtype = dtype_of(base)
    if s.loss.features == "shared":
        t_B = jax.random.uniform(t_key, (B,), minval=s.loss.rsc_t_min)
        x_BSC = noised(batch.latent_BSC, noise_BSC, t_B)
        t_B = euler.model_time(t_B, dtype)
        other_x_BSC, other_t_B = jnp.repeat(x_BSC, W, axis=0), jnp.repeat(t_B, W)
    else:
        high = max(1, sum(sigma >= s.loss.rsc_t_min for sigma in s.sigmas[:-1]))
        index = jax.random.randint(t_key, (), 0, high)
        path = lambda noise, text: euler.follow(  # noqa: E731
            lambda x, t: velocity_of(base, frozen, x, t, text, s)[0],
            noise,
            s.sigmas,
            index,
            dtype=dtype,
        )
        x_BSC = path(noise_BSC, batch.text)
        other_x_BSC = path(jnp.repeat(noise_BSC, W, axis=0), batch.others)
        time = euler.levels(s.sigmas, dtype).time_Z[index]
        t_B, other_t_B = jnp.full(B, time), jnp.full(B * W, time)
    un_BQ = _feature(lora, base, x_BSC, t_B, batch.text, batch.columns, s)
    other_BQ = _feature(frozen, base, other_x_BSC, other_t_B, batch.others, batch.other_columns, s)
    other_BWQ = other_BQ.reshape(B, W, -1)
    form = RSC_FORMS[s.loss.rsc_form]
    return form(un_BQ, other_BWQ[:, 0], other_BWQ[:, 1:], tau=s.loss.tau).mean()


def _feature(lora, base, x_BSC, t_B, text, columns, s: StepSettings) -> jax.Array:
    def reduce(cols_BHQN, columns):
        heads = slice(1) if s.loss.rsc_form == "release" else slice(None)
        return losses.column_feature(
            cols_BHQN[:, heads], columns.mask_BN, image_tokens=s.grid[0] * s.grid[1]
        )

    features_LBQ = columns_of(base, lora, x_BSC, t_B, text, s, columns=columns, reduce=reduce)
    return features_LBQ[-1]
