"""flux-tiny's CLIP text tower: contrast between captions and renders (Radford et al. 2021).

The image tower is thrown away. The text tower is trained before the transformer and frozen.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ea_jax.flux import clip
from ea_jax.flux_tiny.training import loop
from ea_jax.flux_tiny.training.loop import Weights

PIXEL_MAX = 127.5
# The image tower: an MLP-Mixer (Tolstikhin et al. 2021), because a convolution's gradient is slow
# on a CPU.
PATCH, TOKENS, BLOCKS = 8, 64, 2
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0


@dataclasses.dataclass(frozen=True)
class ClipTrainConfig:
    """How the text tower is trained.

    Attributes:
      text: its shape; the vocabulary's size is the tokenizer's.
      schedule: steps and learning rate; `batch` counts pictures.
      length: tokens of a single caption's rows. Attention is causal and the text is read at its
        first end token, so padding to 77 would not change a bit, only take longer.
      joined: share of batches whose texts are several captions of the picture, at full length,
        so that all positions are trained.
      width: of the space in which text and picture meet.
    """

    text: clip.ClipConfig
    schedule: loop.LoopConfig
    length: int
    joined: float
    width: int


class Batch(struct.PyTreeNode):
    """Texts and the pictures they describe, row by row."""

    ids_BT: Any
    images_BHWC: Any


def init_weights(config: ClipTrainConfig, key: jax.Array) -> Weights:
    """`text`, `image`, projections, and the logarithm of the logits' scale."""
    keys = iter(jax.random.split(key, 4 * BLOCKS + 4))
    width = config.width

    def linear(rows: int, columns: int) -> Weights:
        kernel = jax.random.normal(next(keys), (rows, columns)) * rows**-0.5
        return {"kernel": kernel, "bias": jnp.zeros(columns)}

    image = {"patch": linear(3 * PATCH**2, width)}
    for number in range(BLOCKS):
        image[f"block_{number}"] = {
            "across_up": linear(TOKENS, TOKENS),
            "across_down": linear(TOKENS, TOKENS),
            "up": linear(width, 2 * width),
            "down": linear(2 * width, width),
        }
    return {
        "text": clip.init_weights(config.text, next(keys)),
        "image": image,
        "text_projection": linear(config.text.hidden_size, width),
        "image_projection": linear(TOKENS * width, width),
        "log_scale": jnp.full((), math.log(FIRST_SCALE), jnp.float32),
    }


def embed_images(weights: Weights, images_BHWC: jax.Array) -> jax.Array:
    """Unit vectors [B, width] of uint8 pictures of 64 px."""
    image, side = weights["image"], math.isqrt(TOKENS)
    x_BHWC = images_BHWC.astype(jnp.float32) / PIXEL_MAX - 1
    x = x_BHWC.reshape(-1, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    x_BSD = _linear(image["patch"], x.reshape(-1, TOKENS, 3 * PATCH**2))
    for number in range(BLOCKS):
        block = image[f"block_{number}"]
        across_BDS = jax.nn.standardize(x_BSD).swapaxes(1, 2)
        across_BDS = jax.nn.relu(_linear(block["across_up"], across_BDS))
        x_BSD = x_BSD + _linear(block["across_down"], across_BDS).swapaxes(1, 2)
        hidden = jax.nn.relu(_linear(block["up"], jax.nn.standardize(x_BSD)))
        x_BSD = x_BSD + _linear(block["down"], hidden)
    flat = jax.nn.standardize(x_BSD).reshape(len(x_BSD), -1)
    return _unit(_linear(weights["image_projection"], flat))


def embed_texts(weights: Weights, config: clip.ClipConfig, ids_BT: jax.Array) -> jax.Array:
    """Unit vectors [B, width] of tokenized texts."""
    pooled_BD = clip.pool(weights["text"], config, ids_BT)
    return _unit(_linear(weights["text_projection"], pooled_BD))


def _linear(layer: Weights, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _unit(x_BD: jax.Array) -> jax.Array:
    return x_BD / jnp.sqrt(jnp.square(x_BD).sum(-1, keepdims=True) + 1e-8)


def contrastive_loss(
    weights: Weights, batch: Batch, key: jax.Array, *, config: clip.ClipConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Symmetric cross entropy of finding each text's picture in the batch, and the reverse.

    Args:
      weights: tree of `init_weights`.
      batch: rows that belong together.
      key: unused.
      config: the text tower's shape.
    Returns:
      Scalar in nats, and `accuracy`: share of texts whose own picture is the nearest.
    """
    del key
    texts = embed_texts(weights, config, batch.ids_BT)
    images = embed_images(weights, batch.images_BHWC)
    scale = jnp.minimum(jnp.exp(weights["log_scale"]), LARGEST_SCALE)
    logits = scale * texts @ images.T
    own = jnp.eye(len(logits))
    loss = (
        optax.softmax_cross_entropy(logits, own).mean()
        + optax.softmax_cross_entropy(logits.T, own).mean()
    ) / 2
    right = (logits.argmax(-1) == jnp.arange(len(logits))).mean()
    return loss, {"accuracy": right}


def picture_batches(
    images_PHWC: np.ndarray,
    captions: Sequence[Sequence[str]],
    tokenizer: Any,
    config: ClipTrainConfig,
) -> Callable[[int], Batch]:
    """Step number -> pictures, each with one caption, or with several in one text."""

    def at(step: int) -> Batch:
        rng = np.random.default_rng((config.schedule.seed, step))
        size = config.schedule.batch
        rows = np.sort(rng.choice(len(images_PHWC), size, replace=size > len(images_PHWC)))
        joined = rng.random() < config.joined
        texts = []
        for row in rows:
            order = rng.permutation(len(captions[int(row)]))
            chosen = order if joined else order[:1]
            texts.append(", ".join(captions[int(row)][int(number)] for number in chosen))
        length = config.text.max_position_embeddings if joined else config.length
        return Batch(tokenize(tokenizer, texts, length), np.asarray(images_PHWC[rows]))

    return at


def tokenize(tokenizer: Any, texts: Sequence[str], length: int) -> np.ndarray:
    """Ids [B, length], cut and padded as FLUX's pipeline does at its 77."""
    ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True)
    return np.asarray(ids["input_ids"], np.int32)


def measure_retrieval(weights: Weights, config: clip.ClipConfig, batches: Sequence[Batch]) -> float:
    """Share of texts whose own picture is the nearest of their batch."""
    score = jax.jit(functools.partial(contrastive_loss, config=config))
    key = jax.random.key(0)
    return float(np.mean([score(weights, batch, key)[1]["accuracy"] for batch in batches]))


def run(
    images_PHWC: np.ndarray,
    captions: Sequence[Sequence[str]],
    tokenizer: Any,
    config: ClipTrainConfig,
    folder: str | Path,
) -> Weights:
    """Trains both towers, or goes on with them.

    Args:
      images_PHWC: uint8, 64 px.
      captions: texts of each picture.
      tokenizer: flux-tiny's CLIP tokenizer.
      config: shape and schedule.
      folder: checkpoints.
    Returns:
      Tree of `init_weights`, averaged over the last steps; the text tower is `text`.
    Raises:
      ValueError: the text tower's vocabulary is not the tokenizer's.
    """
    if config.text.vocab_size != len(tokenizer):
        raise ValueError(
            f"the text tower has {config.text.vocab_size} tokens, its tokenizer {len(tokenizer)}; "
            "set text.vocab_size to the tokenizer's size"
        )
    weights = init_weights(config, jax.random.key(config.schedule.seed))
    step = loop.make_step(functools.partial(contrastive_loss, config=config.text), config.schedule)
    batches = picture_batches(images_PHWC, captions, tokenizer, config)
    state = loop.start(weights, config.schedule)
    state = loop.fit(step, state, batches, config=config.schedule, folder=folder)
    return state.average
