"""CLIP's text encoder, for the pooled text vector that conditions every block of FLUX.

Its blocks are those of CLIP's picture encoder, too.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ea_jax.flux import described
from ea_jax.flux.cpu import lookup
from ea_jax.settings.fields import check, number

Weights = dict[str, Any]
# transformers reads this id, which early CLIP configs hold by mistake, as "the largest id".
LARGEST_ID = 2


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Shape of a CLIP text encoder; the names are those of transformers' config.json."""

    vocab_size: int = described.width(49408)
    hidden_size: int = described.width(768)
    intermediate_size: int = described.width(3072)
    num_hidden_layers: int = described.layers(12)
    num_attention_heads: int = described.width(12)
    max_position_embeddings: int = described.width(77)
    layer_norm_eps: float = number(float, low=0, high=1, above=True, default=1e-5)
    eos_token_id: int = number(int, low=0, default=LARGEST_ID)

    def __post_init__(self) -> None:
        check(self, "text_encoder")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.eos_token_id >= max(self.vocab_size, LARGEST_ID + 1):
            raise ValueError(
                f"eos_token_id={self.eos_token_id} must be less than vocab_size={self.vocab_size}"
            )

    @classmethod
    def from_json(
        cls, config: dict[str, Any], where: str | Path = "text_encoder/config.json"
    ) -> ClipConfig:
        """Reads a `text_encoder/config.json`; `where` names it in messages.

        Raises:
          ValueError: a key that is missing or has an invalid value, another activation than
            FLUX's CLIP has, or more positions (LongCLIP).
        """
        return described.read(config, cls, _RULES, where)


_RULES = described.Rules(
    fixed={"hidden_act": ("quick_gelu",), "max_position_embeddings": (77,)},
    harmless=described.TRANSFORMERS,
    required={
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
    },
)


class _Attention(nnx.Module):
    def __init__(self, width: int, heads: int, *, causal: bool, rngs: nnx.Rngs):
        self.q = nnx.Linear(width, width, rngs=rngs)
        self.k = nnx.Linear(width, width, rngs=rngs)
        self.v = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.heads, self.causal = heads, causal

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)  # noqa: E731
        out = jax.nn.dot_product_attention(
            split(self.q(x_BTD)), split(self.k(x_BTD)), split(self.v(x_BTD)), is_causal=self.causal
        )
        return self.out(out.reshape(x_BTD.shape))


class _Mlp(nnx.Module):
    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(width, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        hidden = self.fc1(x_BTD)
        return self.fc2(hidden * jax.nn.sigmoid(1.702 * hidden))


class Shape(Protocol):
    """What a block needs to know of a tower; the names are those of transformers' config.json."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def layer_norm_eps(self) -> float: ...


class Block(nnx.Module):
    """One layer of a tower; `causal` where a position sees only those before it."""

    def __init__(self, config: Shape, *, causal: bool, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.attention = _Attention(width, config.num_attention_heads, causal=causal, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.mlp = _Mlp(width, config.intermediate_size, rngs=rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        x_BTD = x_BTD + self.attention(self.norm1(x_BTD))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class _Ends(nnx.Module):
    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        width, small = config.hidden_size, nnx.initializers.normal(0.02)
        self.token_embedding = nnx.Embed(config.vocab_size, width, embedding_init=small, rngs=rngs)
        self.position_embedding = nnx.Embed(
            config.max_position_embeddings, width, embedding_init=small, rngs=rngs
        )
        self.final_norm = nnx.LayerNorm(width, epsilon=config.layer_norm_eps, rngs=rngs)


@functools.lru_cache(maxsize=16)
def _graphs(config: ClipConfig) -> tuple[Any, Any]:
    ends = nnx.eval_shape(lambda: _Ends(config, rngs=nnx.Rngs(0)))
    block = nnx.eval_shape(lambda: Block(config, causal=True, rngs=nnx.Rngs(0)))
    return nnx.graphdef(ends), nnx.graphdef(block)


def init_weights(config: ClipConfig, key: jax.Array, dtype: Any = jnp.float32) -> Weights:
    """Random weights, blocks stacked under `layers`, cast to `dtype`."""
    end_key, block_key = jax.random.split(key)
    weights = dict(nnx.to_pure_dict(nnx.state(_Ends(config, rngs=nnx.Rngs(end_key)))))
    make = lambda k: nnx.to_pure_dict(nnx.state(Block(config, causal=True, rngs=nnx.Rngs(k))))  # noqa: E731
    weights["layers"] = jax.vmap(make)(jax.random.split(block_key, config.num_hidden_layers))
    return jax.tree.map(lambda x: x.astype(dtype), weights)


def abstract_weights(config: ClipConfig, dtype: Any = jnp.float32) -> Weights:
    """The tree of `init_weights` as ShapeDtypeStructs: a template to load into."""
    return jax.eval_shape(lambda: init_weights(config, jax.random.key(0), dtype))


def hidden_states(weights: Weights, config: ClipConfig, ids_BT: jax.Array) -> jax.Array:
    """The last layer's states after the final norm.

    Args:
      weights: tree of `init_weights`; activations take its dtype.
      config: shape of the encoder.
      ids_BT: token ids, at most `max_position_embeddings` of them.
    Returns:
      [B, T, D].
    Raises:
      ValueError: too many tokens.
    """
    ids_BT, length = jnp.asarray(ids_BT), ids_BT.shape[1]
    if length > config.max_position_embeddings:
        raise ValueError(f"{length} tokens; CLIP holds at most {config.max_position_embeddings}")
    ends_graph, block_graph = _graphs(config)
    ends = nnx.merge(ends_graph, {k: v for k, v in weights.items() if k != "layers"})

    def body(x_BTD, block):
        return nnx.merge(block_graph, block)(x_BTD), None

    # Looked up by hand: nnx.Embed promotes to the dtype it was made with.
    x_BTD = lookup(weights["token_embedding"]["embedding"], ids_BT)
    x_BTD = x_BTD + weights["position_embedding"]["embedding"][:length]
    x_BTD, _ = jax.lax.scan(body, x_BTD, weights["layers"])
    return ends.final_norm(x_BTD)


def pool(weights: Weights, config: ClipConfig, ids_BT: jax.Array | np.ndarray) -> jax.Array:
    """The state at the end-of-text token: FLUX's pooled text. Arguments as `hidden_states`.

    Returns:
      [B, D].
    """
    ids_BT = jnp.asarray(ids_BT)
    x_BTD = hidden_states(weights, config, ids_BT)
    if config.eos_token_id == LARGEST_ID:
        end_B = ids_BT.argmax(-1)
    else:
        end_B = (ids_BT == config.eos_token_id).argmax(-1)
    return x_BTD[jnp.arange(ids_BT.shape[0]), end_B]
