"""T5 v1.1's encoder, for the text that FLUX attends to."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ea_jax.flux import described
from ea_jax.flux.cpu import lookup
from ea_jax.settings.fields import check, number

Weights = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape of a T5 encoder; the names are those of transformers' config.json."""

    vocab_size: int = described.width(32128)
    d_model: int = described.width(4096)
    d_kv: int = described.width(64)
    d_ff: int = described.width(10240)
    num_layers: int = described.layers(24)
    num_heads: int = described.width(64)
    relative_attention_num_buckets: int = number(int, low=4, high=1 << 20, default=32)
    relative_attention_max_distance: int = described.width(128)
    layer_norm_epsilon: float = number(float, low=0, high=1, above=True, default=1e-6)

    def __post_init__(self) -> None:
        check(self, "text_encoder_2")
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 4:
            raise ValueError(
                f"relative_attention_max_distance={self.relative_attention_max_distance} must be "
                f"more than a quarter of "
                f"relative_attention_num_buckets={self.relative_attention_num_buckets}"
            )

    @classmethod
    def from_json(
        cls, config: dict[str, Any], where: str | Path = "text_encoder_2/config.json"
    ) -> T5Config:
        """Reads a `text_encoder_2/config.json`; `where` names it in messages.

        Raises:
          ValueError: a key that is missing or has an invalid value, or a T5 before version 1.1
            (its MLP is not gated).
        """
        return described.read(config, cls, _RULES, where)


_RULES = described.Rules(
    fixed={
        "feed_forward_proj": ("gated-gelu",),
        "dense_act_fn": ("gelu_new",),
        "is_gated_act": (True,),
    },
    harmless=described.TRANSFORMERS,
    required={"d_ff", "d_model", "num_heads", "num_layers", "vocab_size"},
)


class _Attention(nnx.Module):
    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        width, inner = config.d_model, config.num_heads * config.d_kv
        self.norm = nnx.RMSNorm(width, epsilon=config.layer_norm_epsilon, rngs=rngs)

        def linear(rows: int, columns: int, std: float) -> nnx.Linear:
            init = nnx.initializers.normal(std)
            return nnx.Linear(rows, columns, use_bias=False, kernel_init=init, rngs=rngs)

        # Logits are not scaled by 1 / sqrt(d_kv): the query's initial weights carry it.
        self.q = linear(width, inner, (width * config.d_kv) ** -0.5)
        self.k = linear(width, inner, width**-0.5)
        self.v = linear(width, inner, width**-0.5)
        self.o = linear(inner, width, inner**-0.5)
        self.heads = config.num_heads

    def __call__(self, x_BTD: jax.Array, bias_HTT: jax.Array) -> jax.Array:
        x_BTD = self.norm(x_BTD)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)  # noqa: E731
        q, k, v = split(self.q(x_BTD)), split(self.k(x_BTD)), split(self.v(x_BTD))
        logits = jnp.einsum("bqhe,bkhe->bhqk", q, k).astype(jnp.float32) + bias_HTT
        shares = jax.nn.softmax(logits).astype(v.dtype)
        out = jnp.einsum("bhqk,bkhe->bqhe", shares, v)
        return self.o(out.reshape(*out.shape[:2], -1))


class _FeedForward(nnx.Module):
    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(config.d_model, epsilon=config.layer_norm_epsilon, rngs=rngs)
        linear = functools.partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.wi_0 = linear(config.d_model, config.d_ff)
        self.wi_1 = linear(config.d_model, config.d_ff)
        self.wo = linear(config.d_ff, config.d_model)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x_BTD = self.norm(x_BTD)
        return self.wo(jax.nn.gelu(self.wi_0(x_BTD), approximate=True) * self.wi_1(x_BTD))


class _Block(nnx.Module):
    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.attention = _Attention(config, rngs=rngs)
        self.ff = _FeedForward(config, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, bias_HTT: jax.Array) -> jax.Array:
        x_BTD = x_BTD + self.attention(x_BTD, bias_HTT)
        return x_BTD + self.ff(x_BTD)


class _Ends(nnx.Module):
    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.shared = nnx.Embed(
            config.vocab_size,
            config.d_model,
            embedding_init=nnx.initializers.normal(1.0),
            rngs=rngs,
        )
        self.relative_attention_bias = nnx.Embed(
            config.relative_attention_num_buckets,
            config.num_heads,
            embedding_init=nnx.initializers.normal(config.d_model**-0.5),
            rngs=rngs,
        )
        self.final_norm = nnx.RMSNorm(config.d_model, epsilon=config.layer_norm_epsilon, rngs=rngs)


@functools.lru_cache(maxsize=16)
def _graphs(config: T5Config) -> tuple[Any, Any]:
    ends = nnx.eval_shape(lambda: _Ends(config, rngs=nnx.Rngs(0)))
    block = nnx.eval_shape(lambda: _Block(config, rngs=nnx.Rngs(0)))
    return nnx.graphdef(ends), nnx.graphdef(block)


def init_weights(config: T5Config, key: jax.Array, dtype: Any = jnp.float32) -> Weights:
    """Random weights, blocks stacked under `block`, cast to `dtype`."""
    end_key, block_key = jax.random.split(key)
    weights = dict(nnx.to_pure_dict(nnx.state(_Ends(config, rngs=nnx.Rngs(end_key)))))
    make = lambda k: nnx.to_pure_dict(nnx.state(_Block(config, rngs=nnx.Rngs(k))))  # noqa: E731
    weights["block"] = jax.vmap(make)(jax.random.split(block_key, config.num_layers))
    return jax.tree.map(lambda x: x.astype(dtype), weights)


def abstract_weights(config: T5Config, dtype: Any = jnp.float32) -> Weights:
    """The tree of `init_weights` as ShapeDtypeStructs: a template to load into."""
    return jax.eval_shape(lambda: init_weights(config, jax.random.key(0), dtype))


def position_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of the relative position of key k to query q, both directions.

    Half the buckets are for keys after the query. Of each half, one half is exact, the other
    logarithmic up to `max_distance`.

    Returns:
      [length, length] int32, query first.
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact)
    octaves = np.log(far) / np.float32(np.log(max_distance / exact))
    logarithmic = np.minimum(exact + (octaves * (half - exact)).astype(np.int32), half - 1)
    near = np.abs(distance) < exact
    return np.where(distance > 0, half, 0) + np.where(near, np.abs(distance), logarithmic)


def encode(weights: Weights, config: T5Config, ids_BT: jax.Array | np.ndarray) -> jax.Array:
    """Encodes tokens; padding is attended to, as in FLUX.

    Args:
      weights: tree of `init_weights`; activations take its dtype.
      config: shape of the encoder.
      ids_BT: token ids.
    Returns:
      [B, T, D].
    """
    # Looked up by hand: nnx.Embed promotes to the dtype it was made with.
    x_BTD = lookup(weights["shared"]["embedding"], jnp.asarray(ids_BT))
    return encode_embedded(weights, config, x_BTD)


def encode_embedded(weights: Weights, config: T5Config, x_BTD: jax.Array) -> jax.Array:
    """`encode` of tokens that are looked up already, or of embeddings that are none's."""
    ends_graph, block_graph = _graphs(config)
    ends = nnx.merge(ends_graph, {k: v for k, v in weights.items() if k != "block"})
    buckets = position_buckets(
        x_BTD.shape[1],
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )
    bias_TTH = lookup(weights["relative_attention_bias"]["embedding"], buckets)
    bias_HTT = bias_TTH.transpose(2, 0, 1)

    def body(x_BTD, block):
        return nnx.merge(block_graph, block)(x_BTD, bias_HTT), None

    x_BTD, _ = jax.lax.scan(body, x_BTD, weights["block"])
    return ends.final_norm(x_BTD)
