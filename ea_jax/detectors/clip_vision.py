"""CLIP's picture encoder: a transformer over patches, read at its class token.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021).
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ea_jax.flux import clip, described
from ea_jax.settings.fields import check, number

Weights = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Shape of a CLIP picture encoder; the names are those of transformers' config.json."""

    hidden_size: int = described.width(768)
    intermediate_size: int = described.width(3072)
    num_hidden_layers: int = described.layers(12)
    num_attention_heads: int = described.width(12)
    image_size: int = described.width(224)
    patch_size: int = described.width(32)
    layer_norm_eps: float = number(float, low=0, high=1, above=True, default=1e-5)

    def __post_init__(self) -> None:
        check(self, "vision_config")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.patch_size > self.image_size:
            raise ValueError(
                f"patch_size={self.patch_size} must be at most image_size={self.image_size}"
            )

    @classmethod
    def from_json(cls, config: dict[str, Any], where: str | Path) -> VisionConfig:
        """Reads the `vision_config` of a config.json; `where` names it in messages.

        Absent keys have transformers' defaults, as it leaves those out.

        Raises:
          ValueError: an invalid value, or another activation than OpenAI's CLIP has.
        """
        return described.read(config, cls, _RULES, where)

    @property
    def positions(self) -> int:
        """Patches, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


_RULES = described.Rules(
    fixed={"hidden_act": ("quick_gelu",), "num_channels": (3,)},
    harmless=described.TRANSFORMERS,
    model="OpenAI's CLIP",
)


class _Ends(nnx.Module):
    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs):
        width, small = config.hidden_size, nnx.initializers.normal(0.02)
        side, eps = config.patch_size, config.layer_norm_eps
        self.class_embedding = nnx.Param(small(rngs.params(), (width,)))
        self.patch_embedding = nnx.Conv(
            3, width, (side, side), (side, side), padding="VALID", use_bias=False, rngs=rngs
        )
        self.position_embedding = nnx.Embed(
            config.positions, width, embedding_init=small, rngs=rngs
        )
        self.pre_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.post_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)

    def patches(self, pixels_BHWC: jax.Array) -> jax.Array:
        x_BhwD = self.patch_embedding(pixels_BHWC)
        x_BSD = x_BhwD.reshape(x_BhwD.shape[0], -1, x_BhwD.shape[-1])
        first_B1D = jnp.broadcast_to(self.class_embedding[...], (len(x_BSD), 1, x_BSD.shape[-1]))
        x_BSD = jnp.concatenate([first_B1D, x_BSD], axis=1)
        return self.pre_norm(x_BSD + self.position_embedding.embedding[...])


@functools.lru_cache(maxsize=16)
def _graphs(config: VisionConfig) -> tuple[Any, Any]:
    ends = nnx.eval_shape(lambda: _Ends(config, rngs=nnx.Rngs(0)))
    block = nnx.eval_shape(lambda: clip.Block(config, causal=False, rngs=nnx.Rngs(0)))
    return nnx.graphdef(ends), nnx.graphdef(block)


def init_weights(config: VisionConfig, key: jax.Array) -> Weights:
    """Random float32 weights, blocks stacked under `layers`."""
    end_key, block_key = jax.random.split(key)
    weights = dict(nnx.to_pure_dict(nnx.state(_Ends(config, rngs=nnx.Rngs(end_key)))))

    def make(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(clip.Block(config, causal=False, rngs=nnx.Rngs(key))))

    weights["layers"] = jax.vmap(make)(jax.random.split(block_key, config.num_hidden_layers))
    return weights


def pool(weights: Weights, config: VisionConfig, pixels_BHWC: jax.Array) -> jax.Array:
    """The class token's state after the last norm.

    Args:
      weights: tree of `init_weights`.
      config: shape of the encoder.
      pixels_BHWC: [B, image_size, image_size, 3], normalised as the encoder was trained.
    Returns:
      [B, D].
    Raises:
      ValueError: pictures of another size.
    """
    side = config.image_size
    if pixels_BHWC.shape[1:] != (side, side, 3):
        raise ValueError(
            f"pictures of shape {pixels_BHWC.shape[1:]}; this CLIP sees {side} x {side} px, RGB"
        )
    ends_graph, block_graph = _graphs(config)
    ends = nnx.merge(ends_graph, {k: v for k, v in weights.items() if k != "layers"})

    def body(x_BSD, block):
        return nnx.merge(block_graph, block)(x_BSD), None

    x_BSD, _ = jax.lax.scan(body, ends.patches(pixels_BHWC), weights["layers"])
    return ends.post_norm(x_BSD[:, 0])
