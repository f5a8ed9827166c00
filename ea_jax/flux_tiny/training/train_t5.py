"""flux-tiny's T5: span corruption over captions, with a decoder that is thrown away.

Trained before the transformer and frozen, as FLUX's is: an encoder trained with the generator
would spread what it says over the padding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ea_jax.flux import t5
from ea_jax.flux.cpu import lookup
from ea_jax.flux_tiny.training import loop
from ea_jax.flux_tiny.training.loop import Weights

PAD, END = 0, 1
OWN_SCALE = 16.0  # a cosine of 0.6 suffices among a thousand tokens; the rest is for context


@dataclasses.dataclass(frozen=True)
class T5TrainConfig:
    """How the encoder is trained.

    Attributes:
      encoder: its shape; the vocabulary's size is the tokenizer's.
      schedule: steps and learning rate; `batch` counts rows of the shortest length.
      lengths: tokens a row, padding included and attended to.
      shares: how often each length comes; longer batches have fewer rows.
      noise: share of tokens that are corrupted.
      span: mean tokens of a corrupted span.
      pairs: share of rows that hold two captions of one picture, so that a word's meaning is
        read off its synonyms, misspelled ones too.
      target: tokens of the decoder's text; longer ones are cut.
      still: weight of the padding's variance, so that words stay out of it.
      own: weight of recognising each token in the encoder's output at its place. Cut-out spans
        alone leave a word's own identity in directions of hardly any variance (a linear reading
        of the mean output told 47 % of the objects, of pooled CLIP 95 %).
    """

    encoder: t5.T5Config
    schedule: loop.LoopConfig
    lengths: tuple[int, ...]
    shares: tuple[float, ...]
    noise: float
    span: float
    pairs: float
    target: int
    still: float
    own: float


class Batch(struct.PyTreeNode):
    """Corrupted text, and what was cut out of it: END-terminated, then PAD."""

    ids_BT: Any
    target_BS: Any


def corrupt(
    ids: Sequence[int],
    sentinels: Sequence[int],
    rng: np.random.Generator,
    *,
    noise: float,
    span: float,
) -> tuple[list[int], list[int]]:
    """T5's span corruption (Raffel et al. 2020, 3.1.4) of one text without its end token.

    Args:
      ids: at least two tokens.
      sentinels: ids that stand for the spans, in order of use.
      rng: of the spans.
      noise: share of tokens to cut out; at least one is, and at least one stays.
      span: mean length of a span.
    Returns:
      The text with each span replaced by a sentinel, and each sentinel with its span; both end
      with END.
    """
    cut = int(np.clip(round(noise * len(ids)), 1, len(ids) - 1))
    spans = int(np.clip(round(cut / span), 1, min(cut, len(ids) - cut, len(sentinels))))
    cut_lengths = _parts(cut, spans, rng)
    kept_lengths = _parts(len(ids) - cut, spans, rng)
    source, target, at = [], [], 0
    # Half of the texts begin with a span, so that first words are cut out too.
    cut_first = bool(rng.integers(2))
    for sentinel, kept, lost in zip(sentinels, kept_lengths, cut_lengths, strict=False):
        for keep in (False, True) if cut_first else (True, False):
            if keep:
                source += ids[at : at + kept]
                at += kept
            else:
                source.append(sentinel)
                target += [sentinel, *ids[at : at + lost]]
                at += lost
    return [*source, END], [*target, END]


def _parts(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """Random lengths, each at least one, that sum to the total."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else []
    return np.diff([0, *cuts, total]).astype(int).tolist()


def text_batches(
    ids: Sequence[Sequence[Sequence[int]]],
    sentinels: Sequence[int],
    comma: int,
    config: T5TrainConfig,
) -> Callable[[int], Batch]:
    """Step number -> corrupted captions at one of the lengths.

    Args:
      ids: per picture, tokens of each of its captions, without end tokens.
      sentinels: ids of the sentinels.
      comma: id that joins the captions of a pair.
      config: lengths and noise.
    """

    def at(step: int) -> Batch:
        rng = np.random.default_rng((config.schedule.seed, step))
        length = int(rng.choice(config.lengths, p=config.shares))
        rows = max(8, config.schedule.batch * config.lengths[0] // length)
        source = np.full((rows, length), PAD, np.int32)
        target = np.full((rows, config.target), PAD, np.int32)
        for row in range(rows):
            texts = ids[int(rng.integers(len(ids)))]
            first, second = rng.choice(len(texts), 2, replace=False)
            text = list(texts[first])
            if rng.random() < config.pairs:
                text += [comma, *texts[second]]
            text = text[: length - 1]
            hidden, spans = corrupt(text, sentinels, rng, noise=config.noise, span=config.span)
            source[row, : len(hidden)] = hidden
            spans = spans[: config.target]
            target[row, : len(spans)] = spans
        return Batch(source, target)

    return at


def init_decoder(config: t5.T5Config, length: int, key: jax.Array) -> Weights:
    """Random weights of the decoder: one block, and a head over the vocabulary."""
    width, hidden = config.d_model, config.d_ff
    shapes = {
        **{f"{part}_{name}": (width, width) for part in ("self", "cross") for name in "qkvo"},
        "up": (width, hidden),
        "down": (hidden, width),
        "head": (width, config.vocab_size),
        "own": (width, config.vocab_size),
    }
    keys = jax.random.split(key, len(shapes) + 1)
    weights: Weights = {
        name: {"kernel": jax.random.normal(k, shape) * shape[0] ** -0.5}
        for k, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    weights["position"] = {"embedding": jax.random.normal(keys[-1], (length, width))}
    for name in ("self_norm", "cross_norm", "ff_norm", "final_norm"):
        weights[name] = {"scale": jnp.ones(width)}
    return weights


def decode(
    weights: Weights,
    config: t5.T5Config,
    text_BSD: jax.Array,
    memory_BTD: jax.Array,
    mask_BT: jax.Array,
) -> jax.Array:
    """Logits of each next token.

    Args:
      weights: tree of `init_decoder`.
      config: the encoder's shape.
      text_BSD: embedded tokens so far.
      memory_BTD: the encoder's outputs.
      mask_BT: True where the memory is text. The decoder does not read padding, so that nothing
        is gained by storing words there.
    Returns:
      [B, S, vocabulary].
    """

    def attend(part: str, x_BSD: jax.Array, source_BTD: jax.Array, mask: jax.Array) -> jax.Array:
        split = lambda y: y.reshape(*y.shape[:-1], config.num_heads, -1)  # noqa: E731
        q, k, v = (
            split(y @ weights[f"{part}_{name}"]["kernel"])
            for name, y in zip("qkv", (x_BSD, source_BTD, source_BTD), strict=True)
        )
        out = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return out.reshape(x_BSD.shape) @ weights[f"{part}_o"]["kernel"]

    def norm(name: str, x_BSD: jax.Array) -> jax.Array:
        mean = jnp.square(x_BSD).mean(-1, keepdims=True)
        return x_BSD * jax.lax.rsqrt(mean + config.layer_norm_epsilon) * weights[name]["scale"]

    length = text_BSD.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
    x_BSD = text_BSD + weights["position"]["embedding"][:length]
    normed = norm("self_norm", x_BSD)
    x_BSD = x_BSD + attend("self", normed, normed, causal)
    x_BSD = x_BSD + attend("cross", norm("cross_norm", x_BSD), memory_BTD, mask_BT[:, None, None])
    hidden = jax.nn.gelu(norm("ff_norm", x_BSD) @ weights["up"]["kernel"])
    x_BSD = x_BSD + hidden @ weights["down"]["kernel"]
    return norm("final_norm", x_BSD) @ weights["head"]["kernel"]


def span_loss(
    weights: Weights, batch: Batch, key: jax.Array, *, config: t5.T5Config, still: float, own: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy of the cut-out tokens in nats, mean over those that are not padding.

    Args:
      weights: `encoder` and `decoder`.
      batch: corrupted text.
      key: unused; T5 trains without dropout here.
      config: the encoder's shape.
      still, own: weights of `padding` and of `own`.
    Returns:
      Scalar; `accuracy`, the share of tokens that the decoder ranks first; `padding`, the
      variance of the encoder's outputs at padding over all texts and places of the batch; `own`,
      the cross entropy in nats of each token given the output at its place.
    """
    del key
    memory_BTD = t5.encode(weights["encoder"], config, batch.ids_BT)
    text_BT = batch.ids_BT != PAD
    shifted_BS = jnp.pad(batch.target_BS[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    text_BSD = lookup(weights["encoder"]["shared"]["embedding"], shifted_BS)
    logits = decode(weights["decoder"], config, text_BSD, memory_BTD, text_BT)
    # One-hot: the gradient of picking a logit by its index is a scatter, slow on a CPU.
    ones = jax.nn.one_hot(batch.target_BS, config.vocab_size)
    losses_BS = optax.softmax_cross_entropy(logits, ones)
    counted_BS = batch.target_BS != PAD
    right_BS = logits.argmax(-1) == batch.target_BS
    mean = lambda x_BS: jnp.where(counted_BS, x_BS, 0).sum() / counted_BS.sum()  # noqa: E731
    padding = _variance(memory_BTD, ~text_BT)
    own_loss = _own_loss(weights["decoder"]["own"]["kernel"], memory_BTD, batch.ids_BT)
    terms = {"accuracy": mean(right_BS), "padding": padding, "own": own_loss}
    return mean(losses_BS) + still * padding + own * own_loss, terms


def _own_loss(kernel_DV: jax.Array, memory_BTD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """By cosines, so that a token can't be kept in directions too small to matter."""
    unit = lambda x, axis: x * jax.lax.rsqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-6)  # noqa: E731
    logits = OWN_SCALE * unit(memory_BTD, -1) @ unit(kernel_DV, 0)
    text_BT = ids_BT != PAD
    losses_BT = optax.softmax_cross_entropy(logits, jax.nn.one_hot(ids_BT, logits.shape[-1]))
    return jnp.where(text_BT, losses_BT, 0).sum() / text_BT.sum()


def _variance(x_BTD: jax.Array, chosen_BT: jax.Array) -> jax.Array:
    """Variance of the chosen rows around their mean, mean over D."""
    chosen = chosen_BT[..., None]
    count = jnp.maximum(chosen.sum(), 1)
    center = jnp.where(chosen, x_BTD, 0).sum((0, 1)) / count
    return jnp.where(chosen, jnp.square(x_BTD - center), 0).sum((0, 1)).mean() / count


def run(
    captions: Sequence[Sequence[str]],
    tokenizer: Any,
    config: T5TrainConfig,
    folder: str | Path,
    *,
    weights: Weights | None = None,
) -> Weights:
    """Trains the encoder, or goes on with it.

    Args:
      captions: at least two texts of each picture.
      tokenizer: flux-tiny's T5 tokenizer, with sentinels.
      config: shape and schedule.
      folder: checkpoints.
      weights: `encoder` and `decoder` to start from; None draws them.
    Returns:
      `encoder` and `decoder`, float32, averaged over the last steps.
    Raises:
      ValueError: the encoder's vocabulary is not the tokenizer's.
    """
    if config.encoder.vocab_size != len(tokenizer):
        raise ValueError(
            f"the encoder has {config.encoder.vocab_size} tokens, its tokenizer {len(tokenizer)}; "
            "set encoder.vocab_size to the tokenizer's size"
        )
    flat = tokenizer([text for texts in captions for text in texts], add_special_tokens=False)[
        "input_ids"
    ]
    ids, at = [], 0
    for texts in captions:
        ids.append([row for row in flat[at : at + len(texts)] if len(row) > 1])
        at += len(texts)
    ids = [texts for texts in ids if len(texts) > 1]
    batches = text_batches(ids, sentinel_ids(tokenizer), _comma(tokenizer), config)
    loss = functools.partial(span_loss, config=config.encoder, still=config.still, own=config.own)
    step = loop.make_step(loss, config.schedule)
    state = loop.start(weights or init_weights(config), config.schedule)
    return loop.fit(step, state, batches, config=config.schedule, folder=folder).average


def init_weights(config: T5TrainConfig) -> Weights:
    """Random `encoder` and `decoder`."""
    keys = jax.random.split(jax.random.key(config.schedule.seed))
    return {
        "encoder": t5.init_weights(config.encoder, keys[0]),
        "decoder": init_decoder(config.encoder, config.target, keys[1]),
    }


def sentinel_ids(tokenizer: Any) -> list[int]:
    """Ids of the sentinels, in order of use."""
    names = [name for name in tokenizer.get_vocab() if name.startswith("<extra_id_")]
    names.sort(key=lambda name: int(name.removeprefix("<extra_id_").removesuffix(">")))
    return tokenizer.convert_tokens_to_ids(names)


def _comma(tokenizer: Any) -> int:
    return tokenizer.convert_tokens_to_ids(",")
