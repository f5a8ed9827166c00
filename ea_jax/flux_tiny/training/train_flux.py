"""flux-tiny's transformer: flow matching on packed latents, text from the frozen encoders.

Content is meant to travel as in FLUX: from T5 through attention, with pooled CLIP as a coarse
hint. So pooled CLIP is withheld at first, and later is that of the empty prompt or of another
caption in part of the samples: given from the start, it was all that the model read (after 4,000
steps, exchanging T5's outputs changed no figure's dress; T5 was then still one that hid its words,
see `train_t5`). While training, a second velocity is read off after the dual-stream blocks, which
gives them work to do; its head is dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ea_jax.flux import clip, layers, t5, transformer
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import Text, TransformerConfig
from ea_jax.flux_tiny.training.flux_batches import FluxBatch, FluxTraining
from ea_jax.flux_tiny.training.loop import LoopConfig, Weights

GUIDANCE = (1.0, 5.0)


def init_weights(config: TransformerConfig, key: jax.Array) -> dict[str, Weights]:
    """{"flux": the transformer, "early": the head after the dual blocks}.

    Modulations and output layers start at zero, but for the gates of attention: those are half
    open, so that text can be read from the first step on.
    """
    weights = transformer.init_weights(config, key)
    zero = lambda layer: jax.tree.map(jnp.zeros_like, layer)  # noqa: E731
    for stack, names in {
        "transformer_blocks": ("norm1", "norm1_context"),
        "single_transformer_blocks": ("norm",),
    }.items():
        for name in names:
            linear = zero(weights[stack][name]["linear"])
            gate = slice(2 * config.width, 3 * config.width)
            linear["bias"] = linear["bias"].at[:, gate].set(0.5)
            weights[stack][name] = {"linear": linear}
    for name in ("norm_out", "proj_out"):
        weights[name] = zero(weights[name])
    early = {name: jax.tree.map(jnp.copy, weights[name]) for name in ("norm_out", "proj_out")}
    return {"flux": weights, "early": early}


def whiten_context(context_embedder: Weights, text_TD: np.ndarray) -> Weights:
    """The text's first layer, set so that features [T, D] of text leave it white.

    T5's variance lies in a few directions; what tells one object from another is in the rest.
    """
    mean_D = text_TD.mean(0)
    variance_D, axes_DD = np.linalg.eigh(np.cov((text_TD - mean_D).T))
    kernel_DD = (axes_DD * (variance_D + 0.02 * variance_D.mean()) ** -0.5) @ axes_DD.T
    made = {"kernel": kernel_DD, "bias": -mean_D @ kernel_DD}
    return {name: jnp.asarray(value, context_embedder[name].dtype) for name, value in made.items()}


def optimiser(config: LoopConfig, *, falling: int) -> optax.GradientTransformation:
    """Muon for the blocks' matrices, AdamW for the rest; warm-up, constant, linear decay.

    Args:
      config: the stage's schedule.
      falling: last steps, in which the learning rate falls to zero; a run that is to be extended
        only needs more steps.
    """
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, falling),
        ],
        [config.warmup, config.steps - falling],
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b2=0.99,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,  # pyright: ignore[reportArgumentType]
        ),
    )


def _matrices(weights: Weights) -> Any:
    """Which leaves Muon takes: the stacked matrices of attention and MLP."""

    def spec(path: Any, leaf: jax.Array) -> Any:
        names = [getattr(key, "key", "") for key in path]
        in_block = any(name in layers.BLOCKS for name in names)
        if in_block and names[-1] == "kernel" and "linear" not in names and leaf.ndim == 3:
            return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return None

    return jax.tree.map_with_path(spec, weights)


def make_loss(
    config: TransformerConfig,
    t5_config: t5.T5Config,
    clip_config: clip.ClipConfig,
    training: FluxTraining,
    *,
    grid: tuple[int, int],
) -> Callable[[dict[str, Weights], FluxBatch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]:
    """`loss(weights, batch, key) -> (scalar, terms)` for `loop.make_step`."""

    def loss(weights, batch, key):
        keys = jax.random.split(key, 3)
        text = encode(batch, t5_config, clip_config, keys[0], training)
        x_BSC, t_B, target = noised(batch, keys[1], keys[2], training)
        # Distillation gives other values of the guidance their meaning.
        guidance_B = jnp.ones(len(t_B))
        v, early = velocities(weights, config, x_BSC, t_B, text, guidance_B, grid=grid)
        error, early_error = (jnp.square(out - target).mean() for out in (v, early))
        return error + training.early * early_error, {"velocity": error, "early": early_error}

    return loss


def noised(
    batch: FluxBatch,
    noise_key: jax.Array,
    t_key: jax.Array,
    training: FluxTraining,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x_t [B, S, C], noise levels [B], and the velocity n - x0 to be predicted, float32."""
    x0_BSC = jnp.asarray(batch.latent_BSC, jnp.float32)
    noise_BSC = jax.random.normal(noise_key, x0_BSC.shape)
    logit_B = jax.random.normal(t_key, (len(x0_BSC),))
    t_B = jax.nn.sigmoid(batch.t_mean + training.t_deviation * logit_B)
    t_B11 = t_B[:, None, None]
    return (1 - t_B11) * x0_BSC + t_B11 * noise_BSC, t_B, noise_BSC - x0_BSC


def velocities(
    weights: dict[str, Weights],
    config: TransformerConfig,
    x_BSC: jax.Array,
    t_B: jax.Array,
    text: Text,
    guidance_B: jax.Array,
    *,
    grid: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """The model's velocity, and the one read off after the dual blocks."""
    flux = unrolled(weights["flux"])
    inputs = transformer.embed(
        flux, config, x_BSC, t_B, text, grid=grid, guidance_B=guidance_B, lora=None
    )
    image, txt, _ = transformer.dual_stack(flux, config, inputs)
    early = transformer.head({**flux, **weights["early"]}, config, image, inputs.temb_BD)
    joint = jnp.concatenate([txt, image], axis=1)
    image = transformer.single_stack(flux, config, inputs, joint)
    return transformer.head(flux, config, image, inputs.temb_BD), early


def encode(
    batch: FluxBatch,
    t5_config: t5.T5Config,
    clip_config: clip.ClipConfig,
    key: jax.Array,
    training: FluxTraining,
) -> Text:
    """Text features of a batch, with the drops that training asks for."""
    encoders = batch.encoders
    B = len(batch.t5_BT)
    pooled_key, caption_key = jax.random.split(key)
    # The empty prompt rides along as a last row, so that each encoder runs once.
    with_empty = lambda ids_BT, empty_T: jnp.concatenate([ids_BT, empty_T[None, : ids_BT.shape[1]]])  # noqa: E731
    t5_out = t5.encode(encoders.t5, t5_config, with_empty(batch.t5_BT, encoders.empty_t5_T))
    pooled = clip.pool(encoders.clip, clip_config, with_empty(batch.clip_BT, encoders.empty_clip_T))
    no_caption_B = jax.random.uniform(caption_key, (B,)) < training.caption_empty
    u_B = jax.random.uniform(pooled_key, (B,))
    zero_B = u_B < training.pooled_zero
    empty_B = u_B < training.pooled_zero + training.pooled_empty
    other_B = ~empty_B & (u_B > 1 - training.pooled_other)
    empty_B |= no_caption_B | batch.withheld
    t5_BTD = jnp.where(no_caption_B[:, None, None], t5_out[-1:], t5_out[:-1])
    given_BD = jnp.where(other_B[:, None], jnp.roll(pooled[:-1], 1, axis=0), pooled[:-1])
    pooled_BD = jnp.where(empty_B[:, None], pooled[-1:], given_BD)
    return Text(t5_BTD=t5_BTD, pooled_BD=jnp.where(zero_B[:, None], 0.0, pooled_BD))
