"""flux-tiny's transformer: flow matching on packed latents, text from the frozen encoders.

Content is meant to travel as in FLUX: from T5 through attention, with pooled CLIP as a coarse
hint. So pooled CLIP is withheld at first, and later is that of the empty prompt or of another
caption in part of the samples: given from the start, it was all that the model read (after 4,000
steps, exchanging T5's outputs changed no figure's dress; T5 was then still one that hid its words,
see `train_t5`). While training, a second velocity is read off after the dual-stream blocks, which
gives them work to do; its head is dropped afterwards.

Styles and backgrounds are learnt long before objects. So there is a time in which most samples show
one object in the default style, at noise levels where its shape is decided, and then one for pairs
and relations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ea_jax.flux import clip, layers, t5, transformer
from ea_jax.flux.stack import unrolled
from ea_jax.flux.transformer import Text, TransformerConfig
from ea_jax.flux_tiny.training.loop import LoopConfig, Weights

GUIDANCE = (1.0, 5.0)
PART_TOKENS = 750


@dataclasses.dataclass(frozen=True)
class Phase:
    """What is drawn from step `begins` on, until the next phase begins.

    Attributes:
      begins: first step.
      one_object, two_objects: shares of samples that show so many objects, and no relation, in
        the default style.
      relation: share of samples that show a relation, in the default style.
      default_style: share of samples in the default style, whatever they show.
      t_mean: of the logit of the noise level.
      larger: how many times the usual batch.
    """

    begins: int
    one_object: float = 0.0
    two_objects: float = 0.0
    relation: float = 0.0
    default_style: float = 0.0
    t_mean: float = 0.8
    larger: int = 1


_PAIRS = Phase(
    14_700, one_object=0.25, two_objects=0.22, relation=0.13, default_style=0.1, t_mean=1.2
)


@dataclasses.dataclass(frozen=True)
class FluxTraining:
    """How the transformer is trained.

    Attributes:
      text_length: T5 tokens of most batches; captions are cut there.
      longer: {T5 tokens: (every how many steps, batch size)} of the others.
      text_first: steps in which every sample's pooled CLIP is the empty prompt's, or 0.
      phases: what is drawn when, in order of their steps; the first begins at 0.
      pooled_empty, pooled_zero, pooled_other: share of samples whose pooled CLIP is the empty
        prompt's, 0, or another caption's: T5 alone can be relied on.
      caption_empty: share of samples without a caption, for classifier-free guidance.
      early: weight of the velocity after the dual-stream blocks.
      t_deviation: of the logit of the noise level; its mean is the phase's.
    """

    text_length: int = 24
    longer: tuple[tuple[int, int, int], ...] = ((32, 7, 64), (64, 23, 32), (512, 101, 8))
    text_first: int = 2750
    phases: tuple[Phase, ...] = (
        Phase(0),
        Phase(3750, one_object=0.7, t_mean=1.4),
        Phase(7250, one_object=0.4, default_style=0.35, t_mean=1.2),
        Phase(10_300, one_object=0.4, two_objects=0.15, default_style=0.2, t_mean=1.2),
        _PAIRS,
        dataclasses.replace(_PAIRS, begins=19_250, larger=4),
    )
    pooled_empty: float = 0.4
    pooled_zero: float = 0.05
    pooled_other: float = 0.25
    caption_empty: float = 0.1
    early: float = 0.3
    t_deviation: float = 1.1


class Encoders(struct.PyTreeNode):
    """Frozen text encoders, and the empty prompt's ids."""

    t5: Weights
    clip: Weights
    empty_t5_T: jax.Array
    empty_clip_T: jax.Array


class FluxBatch(struct.PyTreeNode):
    """Latents float16 [B, S, C], ids [B, T] of their captions, and the encoders.

    `withheld` is True in the steps that have no pooled CLIP; `t_mean` is that of the logit of the
    noise level.
    """

    latent_BSC: jax.Array | np.ndarray
    t5_BT: jax.Array | np.ndarray
    clip_BT: jax.Array | np.ndarray
    encoders: Encoders
    withheld: jax.Array | np.ndarray
    t_mean: jax.Array | np.ndarray


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


def tokenize(
    captions: Sequence[Sequence[str]], t5_tokenizer: Any, clip_tokenizer: Any, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N, captions, length] int16 for T5 and for CLIP.

    CLIP pools at the end token and is causal: what comes after it need not be there.
    """
    flat = [caption for row in captions for caption in row]
    made = []
    for tokenizer in (t5_tokenizer, clip_tokenizer):
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        parts = [
            np.asarray(tokenizer(flat[first : first + 10_000], **options)["input_ids"], np.int16)
            for first in range(0, len(flat), 10_000)
        ]
        made.append(np.concatenate(parts).reshape(len(captions), -1, length))
    return made[0], made[1]


def split(batch: FluxBatch) -> tuple[Any, Callable[[Any], FluxBatch]]:
    """Parts of a batch of at most `PART_TOKENS` tokens, for `loop.make_step` on a CPU."""
    B, S, T = *batch.latent_BSC.shape[:2], batch.t5_BT.shape[1]
    rows = max(n for n in range(1, B + 1) if B % n == 0 and (n == 1 or n * (S + T) <= PART_TOKENS))
    content = (batch.latent_BSC, batch.t5_BT, batch.clip_BT)
    parts = jax.tree.map(lambda x: x.reshape(B // rows, rows, *x.shape[1:]), content)
    rest = {name: getattr(batch, name) for name in ("encoders", "withheld", "t_mean")}
    return parts, lambda part: FluxBatch(*part, **rest)


def batches(
    latents_PSC: np.ndarray,
    t5_PGT: np.ndarray,
    clip_PGT: np.ndarray,
    encoders: Encoders,
    training: FluxTraining,
    *,
    groups: Mapping[str, np.ndarray],
    batch: int,
    seed: int,
) -> Callable[[int], FluxBatch]:
    """Step number -> batch; rows, captions and text length depend on seed and step alone.

    Args:
      latents_PSC, t5_PGT, clip_PGT: scenes, and ids of their G captions.
      encoders: ride along with each batch.
      training: what is drawn, and when.
      groups: rows that a phase's shares are drawn from, by the share's name.
      batch: rows of a batch of the usual text length, in a phase that has no larger ones.
      seed: of everything drawn here.
    """

    def at(step: int) -> FluxBatch:
        rng = np.random.default_rng((seed, step))
        size, length = batch, training.text_length
        for other, every, its_size in training.longer:
            if step % every == every - 1:
                size, length = its_size, other
        phase = [phase for phase in training.phases if phase.begins <= step][-1]
        size *= phase.larger
        rows = rng.integers(len(latents_PSC), size=size)
        u, below = rng.random(size), 0.0
        for name, group in groups.items():
            above = below + getattr(phase, name)
            some = group[rng.integers(len(group), size=size)]
            rows = np.where((below <= u) & (u < above), some, rows)
            below = above
        rows = np.sort(rows)
        which = rng.integers(t5_PGT.shape[1], size=size)
        ids_BT = t5_PGT[rows, which].astype(np.int32)
        padded = np.pad(ids_BT, ((0, 0), (0, length - ids_BT.shape[1])))  # T5 pads with 0
        return FluxBatch(
            latent_BSC=np.asarray(latents_PSC[rows]),
            t5_BT=padded,
            clip_BT=clip_PGT[rows, which].astype(np.int32),
            encoders=encoders,
            withheld=np.asarray(step < training.text_first),
            t_mean=np.asarray(phase.t_mean, np.float32),
        )

    return at
