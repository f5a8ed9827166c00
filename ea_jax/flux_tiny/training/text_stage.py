"""flux-tiny's text stage: tokenizers, then T5, then CLIP; settings, training, half precision."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import convert.diffusers
from ea_jax.flux import clip, t5
from ea_jax.flux_tiny.training import dataset, loop, tokenizers, train_clip, train_t5
from ea_jax.flux_tiny.training.loop import Weights

log = logging.getLogger(__name__)

TOKENIZERS = tokenizers.TokenizerConfig(
    t5_pieces=1000, t5_sentinels=32, t5_longest_piece=8, t5_length=512, clip_merges=1000
)
T5_SHAPE = t5.T5Config(d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4)
T5_SCHEDULE = loop.LoopConfig(
    steps=1600,
    batch=64,
    learning_rate=3e-3,
    warmup=100,
    weight_decay=1e-3,
    ema=0.99,
    log_every=50,
    save_every=400,
    seed=21,
)
CLIP_SHAPE = clip.ClipConfig(
    hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4
)
CLIP_SCHEDULE = loop.LoopConfig(
    steps=600,
    batch=128,
    learning_rate=2e-3,
    warmup=80,
    weight_decay=1e-3,
    ema=0.99,
    log_every=25,
    save_every=200,
    seed=22,
)


# Then the padding is held still: it had a say of its own, with half the variance of the text.
T5_STILL_SCHEDULE = dataclasses.replace(T5_SCHEDULE, steps=400, learning_rate=1e-3, warmup=40)
T5_STILL = 1.0
T5_OWN = 0.5


def run(data: dataset.Dataset, held_out: dataset.Dataset, work: Path, out: Path) -> None:
    """Trains tokenizers, T5 and CLIP into the pipeline folder `out`.

    Raises:
      FileExistsError: `out` holds text encoders already.
    """
    t5_tokenizer, clip_tokenizer = train_tokenizers(data.captions, out)
    train_t5_encoder(data.captions, t5_tokenizer, work, out)
    train_clip_encoder(data, held_out, clip_tokenizer, work, out)


def train_tokenizers(captions: Sequence[Sequence[str]], out: Path) -> tuple[Any, Any]:
    """Trains both on two captions of each picture, and writes them into the pipeline folder."""
    return tokenizers.run([text for texts in captions for text in texts[:2]], TOKENIZERS, out)


def train_t5_encoder(
    captions: Sequence[Sequence[str]], tokenizer: Any, work: Path, out: Path
) -> Weights:
    """Trains T5 and writes it; returns the weights as written, in float32."""
    shape = dataclasses.replace(T5_SHAPE, vocab_size=len(tokenizer))
    config = train_t5.T5TrainConfig(
        encoder=shape,
        schedule=T5_SCHEDULE,
        lengths=(32, 64, 512),
        shares=(0.84, 0.12, 0.04),
        noise=0.2,
        span=2.0,
        pairs=0.5,
        target=24,
        still=0.0,
        own=T5_OWN,
    )
    weights = train_t5.run(captions, tokenizer, config, work / "t5")
    config = dataclasses.replace(config, schedule=T5_STILL_SCHEDULE, still=T5_STILL)
    weights = train_t5.run(captions, tokenizer, config, work / "t5_still", weights=weights)
    return _save(weights["encoder"], out, "text_encoder_2", t5_json(shape))


def train_clip_encoder(
    data: dataset.Dataset, held_out: dataset.Dataset, tokenizer: Any, work: Path, out: Path
) -> Weights:
    """Trains CLIP, measures it, and writes its text tower; returns that as written, in float32."""
    shape = dataclasses.replace(
        CLIP_SHAPE, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id
    )
    config = train_clip.ClipTrainConfig(
        text=shape, schedule=CLIP_SCHEDULE, length=32, joined=0.12, width=128
    )
    weights = train_clip.run(data.images, data.captions, tokenizer, config, work / "clip")
    held = train_clip.picture_batches(held_out.images, held_out.captions, tokenizer, config)
    accuracy = train_clip.measure_retrieval(weights, shape, [held(n) for n in range(20)])
    log.info("CLIP: %.1f %% of held-out texts find their picture", 100 * accuracy)
    return _save(weights["text"], out, "text_encoder", clip_json(shape, tokenizer))


def t5_json(config: t5.T5Config) -> dict[str, Any]:
    """config.json of transformers' T5EncoderModel."""
    return {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
        "is_encoder_decoder": False,
        "use_cache": False,
        "tie_word_embeddings": False,
        "pad_token_id": train_t5.PAD,
        "eos_token_id": train_t5.END,
        **dataclasses.asdict(config),
    }


def clip_json(config: clip.ClipConfig, tokenizer: Any) -> dict[str, Any]:
    """config.json of transformers' CLIPTextModel."""
    return {
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu",
        "attention_dropout": 0.0,
        "projection_dim": config.hidden_size,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **dataclasses.asdict(config),
    }


def _save(weights: Weights, out: Path, part: str, config: dict[str, Any]) -> Weights:
    half = jax.tree.map(lambda w: np.asarray(w, np.float16), weights)
    convert.diffusers.replace(half, out, part, dtype=np.float16, config=config)
    return jax.tree.map(lambda w: np.asarray(w, np.float32), half)
