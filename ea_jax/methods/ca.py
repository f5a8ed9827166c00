"""CA (Kumari et al. 2023, "Ablating Concepts in Text-to-Image Diffusion Models"), both forms.

    model-based:  L = || v(x_t, c) - sg v(x_t, a) ||^2       + keep || v(x_t', a) - (n' - x0) ||^2
    noise-based:  L = || v(x_t, c) - (n - x0) ||^2           + keep || v(x_t', a) - (n' - x0) ||^2

x0 is a picture that the frozen model made of an anchor prompt a; x_t and x_t' are that picture at
two noise levels, by noises n and n'. Under c, which is a with the concept in it, the student learns
what it says itself of the anchor (sg: no gradient), or the anchor's picture; the last term holds
what it says of the anchor.

The anchors are those of the bank's rows (`concept.anchor`), a picture or several of each. The
preset leaves the order of words alone, so that a prompt and its picture belong together.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ea_jax.flux.transformer import Text, Weights, dtype_of
from ea_jax.methods import losses
from ea_jax.methods.forward import Forward, velocity_of
from ea_jax.methods.method import Method, Needs, Terms
from ea_jax.methods.pictures import FIRST_SEED, in_turn
from ea_jax.methods.ready import Ready
from ea_jax.methods.trained import State, descend, trained
from ea_jax.methods.trajectories import Noised, drawn
from ea_jax.runtime.mesh import batch_parts, pad_rows
from ea_jax.runtime.streams import stream
from ea_jax.settings import Settings

_PICTURE, _NOISE = 401, 402  # streams of its own


class Batch(struct.PyTreeNode):
    """One step's pictures and their prompts.

    Attributes:
      latent_BSC: pictures of anchor prompts, clean and packed.
      text: the anchors' sentences with the concept in them.
      anchor: the prompts that made the pictures.
      weight_B: 1 for real rows, 0 for rows that only fill up a sharded batch.
      seed: uint32, of noises and noise levels.
    """

    latent_BSC: jax.Array
    text: Text
    anchor: Text
    weight_B: jax.Array
    seed: jax.Array


class Target(Protocol):
    """What the student's velocity under the concept is pulled to, [B, S, C]."""

    def __call__(
        self, adapters: Any, base: Weights, batch: Batch, here: Noised, forward: Forward
    ) -> jax.Array: ...


def needs(settings: Settings) -> Needs:
    """Pictures of anchor prompts."""
    return Needs(anchor=settings.ca.pictures)


def make_model(ready: Ready) -> Method:
    """The model-based form for a run."""
    return _make(ready, "ca_model", model_target)


def make_noise(ready: Ready) -> Method:
    """The noise-based form for a run."""
    return _make(ready, "ca_noise", noise_target)


def _make(ready: Ready, name: str, target: Target) -> Method:
    settings, bank, pictures = ready.settings, ready.bank, ready.pictures["anchor"]
    section, seed = settings.ca, settings.optim.seed

    def batch(step: int) -> Batch:
        count, size = len(pictures.number_P), settings.optim.batch
        picked = in_turn(count, size, step, seed=seed, purpose=_PICTURE)
        rows = pictures.number_P[picked]
        content = {
            "latent_BSC": pictures.latent_PSC[picked],
            "text": bank.text("target", rows),
            "anchor": bank.text("anchor", rows),
        }
        padded, weight_B = pad_rows(content, batch_parts(ready.mesh))
        noise: Any = np.uint32(stream(seed, _NOISE, step).integers(FIRST_SEED, 2**32))
        return Batch(weight_B=weight_B, seed=noise, **padded)

    step = functools.partial(
        train_step,
        target=target,
        keep=section.keep,
        t_draw=settings.loss.t_draw,
        forward=ready.forward,
    )
    return trained(ready, step, batch, name=name, steps=section.steps, lr=section.lr)


def model_target(
    adapters: Any, base: Weights, batch: Batch, here: Noised, forward: Forward
) -> jax.Array:
    """The student's own velocity under the anchor."""
    with jax.named_scope("teacher"):
        v, _ = velocity_of(base, adapters, here.x_BSC, here.t_B, batch.anchor, forward)
    return jax.lax.stop_gradient(v)


def noise_target(
    adapters: Any, base: Weights, batch: Batch, here: Noised, forward: Forward
) -> jax.Array:
    """The velocity towards the anchor's picture."""
    del adapters, base, batch, forward
    return here.velocity_BSC


def train_step(
    state: State,
    base: Weights,
    batch: Batch,
    *,
    target: Target,
    keep: float,
    t_draw: str,
    forward: Forward,
    optimiser: optax.GradientTransformation,
) -> tuple[State, Terms]:
    """One update on a loss above.

    Returns:
      The new state; both terms (unweighted), their sum and the gradient's norm, float32.
    """
    first, second = (
        drawn(
            noise_key,
            t_key,
            batch.latent_BSC,
            how=t_draw,
            sigmas=forward.sigmas,
            dtype=dtype_of(base),
        )
        for noise_key, t_key in map(jax.random.split, jax.random.split(jax.random.key(batch.seed)))
    )
    wanted = target(state.lora, base, batch, first, forward)
    both = lambda *rows: jax.tree.map(lambda *each: jnp.concatenate(each), *rows)  # noqa: E731
    here, text = both(first, second), both(batch.text, batch.anchor)

    def loss(adapters: Any) -> tuple[jax.Array, Terms]:
        with jax.named_scope("student"):
            v, _ = velocity_of(base, adapters, here.x_BSC, here.t_B, text, forward)
        concept, anchor = jnp.split(v, 2)
        kept_B = losses.velocity_error(anchor, second.velocity_BSC)
        terms = {
            "ca": losses.mean_of(losses.velocity_error(concept, wanted), batch.weight_B),
            "keep": losses.mean_of(kept_B, batch.weight_B),
        }
        total = terms["ca"] + keep * terms["keep"]
        return total, {**terms, "total": total}

    return descend(state, loss, optimiser)
