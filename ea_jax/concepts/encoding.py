"""Prompts encoded once, in bfloat16, and kept in a file that is known to be theirs."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ea_jax.concepts.array_cache import cached
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.tokens import tokenize
from ea_jax.flux.transformer import Text
from ea_jax.runtime.fingerprint import fingerprint_files
from ea_jax.runtime.hosts import on_host

Encode = Callable[[Sequence[str]], tuple[Any, Any]]
# Changes when the same inputs would give other bytes.
_VERSION = 1
_NAMES = ("t5_UTD", "pooled_UD")
_BATCH = 8  # prompts encoded at once
ENCODERS = ("text_encoder", "text_encoder_2")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded prompts in host memory, by their texts: t5_UTD and pooled_UD are bfloat16."""

    prompts: tuple[str, ...]
    t5_UTD: np.ndarray
    pooled_UD: np.ndarray

    @classmethod
    def make(
        cls, prompts: Sequence[str], *, tokenizer: Any, max_length: int, **options: Any
    ) -> Encoded:
        """Encodes each distinct prompt; `options` are those of `encode_once`."""
        distinct = tuple(dict.fromkeys(prompts))
        tokens = tokenize(tokenizer, distinct, max_length)
        return cls(distinct, *encode_once(distinct, tokens.ids_BT, **options))

    def text(self, prompts: Sequence[str]) -> Text:
        """The encoded text of some of the prompts, in their order."""
        numbers = [self.prompts.index(prompt) for prompt in prompts]
        t5_BTD: Any = self.t5_UTD[numbers]
        pooled_BD: Any = self.pooled_UD[numbers]
        return Text(t5_BTD=t5_BTD, pooled_BD=pooled_BD)


def encode_once(
    prompts: Sequence[str],
    ids_UT: np.ndarray,
    *,
    encode: Encode,
    encoder: str,
    batch: int,
    cache: str | Path | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes prompts, or reads them where they were encoded before.

    Args:
      prompts: distinct texts.
      ids_UT: their T5 tokens, which tell a changed tokenizer or text length.
      encode: [batch] prompts -> (t5_BTD, pooled_BD); not called when the cache has them.
      encoder: name or hash of the encoders' weights.
      batch: prompts given to `encode`, always this many.
      cache: folder; None keeps nothing. A file there that is damaged is logged and made anew.
    Returns:
      bfloat16 [U, T, D] and [U, D].
    Raises:
      ValueError: `encode` returns another number of rows or tokens than it should.
    """
    inputs = {
        "version": _VERSION,
        "encoder": encoder,
        "prompts": list(prompts),
        "tokens": hashlib.sha256(np.ascontiguousarray(ids_UT, np.int32).tobytes()).hexdigest(),
        "length": ids_UT.shape[1],
    }
    t5_UTD, pooled_UD = cached(
        cache,
        inputs,
        lambda: _encode_all(prompts, ids_UT.shape[1], encode, batch),
        names=_NAMES,
        kind="prompts",
        what=f"{len(prompts)} encoded prompts",
    )
    return t5_UTD, pooled_UD


def encoder_of(
    pipeline: Pipeline, *, text_length: int, dtype: str, cache: str | Path | None
) -> dict[str, Any]:
    """How a pipeline encodes prompts, for `Encoded.make`; encoders load when first needed.

    Args:
      pipeline: with its text encoders loaded, or none.
      text_length: T5 tokens, padding included.
      dtype: that the pipeline has.
      cache: folder where encoded prompts are kept; None keeps nothing.
    """

    def encode(prompts: Sequence[str]) -> tuple[Any, Any]:
        for part in ENCODERS:
            pipeline.load_part(part)
        text, _ = pipeline.encode(prompts, max_length=text_length)
        return text.t5_BTD, text.pooled_BD

    files = [
        file
        for part in (*ENCODERS, "tokenizer", "tokenizer_2")
        for file in pipeline.part_folder(part).iterdir()
        if file.is_file()
    ]
    return {
        "encode": encode,
        "encoder": f"{fingerprint_files(files)} {dtype}",
        "tokenizer": pipeline.t5_tokenizer,
        "max_length": text_length,
        "batch": _BATCH,
        "cache": cache,
    }


def _encode_all(
    prompts: Sequence[str], length: int, encode: Encode, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    # One array for all and one batch beside it: at 512 x 4096 a prompt is 4 MB.
    t5_UTD = pooled_UD = np.empty(0)
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        # The last batch is filled up, so that one shape is compiled.
        t5_BTD, pooled_BD = encode(part + part[-1:] * (batch - len(part)))
        if t5_BTD.shape[:2] != (batch, length) or pooled_BD.shape[0] != batch:
            raise ValueError(
                f"encode returned T5 {tuple(t5_BTD.shape)} and CLIP {tuple(pooled_BD.shape)} for "
                f"{batch} prompts of {length} tokens; encode and max_length have to agree"
            )
        if start == 0:
            t5_UTD = np.empty((len(prompts), *t5_BTD.shape[1:]), jnp.bfloat16)
            pooled_UD = np.empty((len(prompts), *pooled_BD.shape[1:]), jnp.bfloat16)
        t5_UTD[start : start + len(part)] = on_host(t5_BTD)[: len(part)]
        pooled_UD[start : start + len(part)] = on_host(pooled_BD)[: len(part)]
    return t5_UTD, pooled_UD
