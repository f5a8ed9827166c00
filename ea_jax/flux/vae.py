"""FLUX's autoencoder: pictures to latents and back, channels last."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ea_jax.flux import described
from ea_jax.settings.fields import check, integers, number

Weights = dict[str, Any]
NORM_EPS = 1e-6
# Of the posterior's log variance, as in diffusers.
LOGVAR_RANGE = (-30.0, 20.0)


@dataclasses.dataclass(frozen=True)
class VaeConfig:
    """Shape of an AutoencoderKL; the names are those of diffusers' config.json."""

    in_channels: int = described.width(3)
    out_channels: int = described.width(3)
    block_out_channels: tuple[int, ...] = integers(
        least=1, low=1, below=1 << 20, default=(128, 256, 512, 512)
    )
    layers_per_block: int = described.layers(2)
    latent_channels: int = described.width(16)
    norm_num_groups: int = described.width(32)
    scaling_factor: float = number(float, low=0, above=True, default=0.3611)
    shift_factor: float = number(float, default=0.1159)

    def __post_init__(self) -> None:
        check(self, "vae")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels={self.block_out_channels} must be multiples of "
                    f"norm_num_groups={self.norm_num_groups}"
                )

    @property
    def factor(self) -> int:
        """Pixels per latent, in each direction."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_json(cls, config: dict[str, Any], where: str | Path = "vae/config.json") -> VaeConfig:
        """Reads a `vae/config.json`; `where` names it in messages.

        Raises:
          ValueError: a key that is missing or has an invalid value, or a part that FLUX's VAE
            doesn't have.
        """
        for key in ("use_quant_conv", "use_post_quant_conv"):
            # What a file leaves out is there.
            if config.get(key, True) is not False:
                found = config.get(key, True)
                raise ValueError(
                    f"{where}: {key}={found!r} is not supported; it has to be false, since FLUX's "
                    "VAE has no such layer"
                )
        read = described.read(config, cls, _RULES, where)
        for key, kind in [
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ]:
            wanted = [kind] * len(read.block_out_channels)
            if config.get(key, wanted) != wanted:
                raise ValueError(
                    f"{where}: {key}={config[key]!r} is not supported; it has to be {wanted}, one "
                    "for each of block_out_channels"
                )
        return read


_RULES = described.Rules(
    fixed={
        "act_fn": ("silu",),
        "in_channels": (3,),
        "latents_mean": (None,),
        "latents_std": (None,),
        "mid_block_add_attention": (True,),
        "out_channels": (3,),
    },
    harmless={
        "down_block_types",
        "force_upcast",
        "sample_size",
        "up_block_types",
        "use_post_quant_conv",
        "use_quant_conv",
    },
    required={field.name for field in dataclasses.fields(VaeConfig)},
)


def _conv(channels_in: int, channels: int, rngs: nnx.Rngs, size: int = 3) -> nnx.Conv:
    return nnx.Conv(channels_in, channels, (size, size), padding="SAME", rngs=rngs)


def _norm(channels: int, config: VaeConfig, rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(channels, num_groups=config.norm_num_groups, epsilon=NORM_EPS, rngs=rngs)


class _Resnet(nnx.Module):
    def __init__(self, channels_in: int, channels: int, config: VaeConfig, *, rngs: nnx.Rngs):
        self.norm1 = _norm(channels_in, config, rngs)
        self.conv1 = _conv(channels_in, channels, rngs)
        self.norm2 = _norm(channels, config, rngs)
        self.conv2 = _conv(channels, channels, rngs)
        self.widens = channels_in != channels
        if self.widens:
            self.conv_shortcut = _conv(channels_in, channels, rngs, size=1)

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        hidden = self.conv1(jax.nn.silu(self.norm1(x_BhwC)))
        hidden = self.conv2(jax.nn.silu(self.norm2(hidden)))
        return hidden + (self.conv_shortcut(x_BhwC) if self.widens else x_BhwC)


class _Attention(nnx.Module):
    """One head over all positions."""

    def __init__(self, channels: int, config: VaeConfig, *, rngs: nnx.Rngs):
        self.group_norm = _norm(channels, config, rngs)
        self.to_q = nnx.Linear(channels, channels, rngs=rngs)
        self.to_k = nnx.Linear(channels, channels, rngs=rngs)
        self.to_v = nnx.Linear(channels, channels, rngs=rngs)
        self.to_out = nnx.Linear(channels, channels, rngs=rngs)

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        flat = self.group_norm(x_BhwC).reshape(x_BhwC.shape[0], -1, 1, x_BhwC.shape[-1])
        out = jax.nn.dot_product_attention(self.to_q(flat), self.to_k(flat), self.to_v(flat))
        return x_BhwC + self.to_out(out).reshape(x_BhwC.shape)


class _Mid(nnx.Module):
    def __init__(self, channels: int, config: VaeConfig, *, rngs: nnx.Rngs):
        self.resnets = nnx.Dict(
            {str(i): _Resnet(channels, channels, config, rngs=rngs) for i in range(2)}
        )
        self.attentions = nnx.Dict({"0": _Attention(channels, config, rngs=rngs)})

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        x_BhwC = self.attentions["0"](self.resnets["0"](x_BhwC))
        return self.resnets["1"](x_BhwC)


class _Sampler(nnx.Module):
    """The convolution that halves or doubles the resolution."""

    def __init__(self, channels: int, *, stride: int, rngs: nnx.Rngs):
        padding = "SAME" if stride == 1 else "VALID"
        self.conv = nnx.Conv(channels, channels, (3, 3), strides=stride, padding=padding, rngs=rngs)


class _Level(nnx.Module):
    """The blocks of one resolution; the last level of a tower has no sampler."""

    downsamplers: nnx.Dict
    upsamplers: nnx.Dict

    def __init__(
        self, channels: tuple[int, int], blocks: int, config: VaeConfig, *, rngs: nnx.Rngs
    ):
        self.blocks = blocks
        widths = [channels[0]] + [channels[1]] * blocks
        self.resnets = nnx.Dict(
            {str(i): _Resnet(widths[i], widths[i + 1], config, rngs=rngs) for i in range(blocks)}
        )

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        for index in range(self.blocks):
            x_BhwC = self.resnets[str(index)](x_BhwC)
        return x_BhwC


class _Encoder(nnx.Module):
    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.conv_in = _conv(config.in_channels, widths[0], rngs)
        self.down_blocks = nnx.Dict({})
        for index, width in enumerate(widths):
            pair = (widths[max(index - 1, 0)], width)
            level = _Level(pair, config.layers_per_block, config, rngs=rngs)
            if index < len(widths) - 1:
                level.downsamplers = nnx.Dict({"0": _Sampler(width, stride=2, rngs=rngs)})
            self.down_blocks[str(index)] = level
        self.mid_block = _Mid(widths[-1], config, rngs=rngs)
        self.conv_norm_out = _norm(widths[-1], config, rngs)
        self.conv_out = _conv(widths[-1], 2 * config.latent_channels, rngs)
        self.levels = len(widths)

    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        x_BhwC = self.conv_in(x_BhwC)
        for index in range(self.levels):
            level = self.down_blocks[str(index)]
            x_BhwC = level(x_BhwC)
            if index < self.levels - 1:
                # Padded at the bottom and right only, as in diffusers.
                x_BhwC = jnp.pad(x_BhwC, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x_BhwC = level.downsamplers["0"].conv(x_BhwC)
        x_BhwC = self.conv_norm_out(self.mid_block(x_BhwC))
        return self.conv_out(jax.nn.silu(x_BhwC))


class _Decoder(nnx.Module):
    def __init__(self, config: VaeConfig, *, rngs: nnx.Rngs):
        widths = config.block_out_channels[::-1]
        self.conv_in = _conv(config.latent_channels, widths[0], rngs)
        self.mid_block = _Mid(widths[0], config, rngs=rngs)
        self.up_blocks = nnx.Dict({})
        for index, width in enumerate(widths):
            pair = (widths[max(index - 1, 0)], width)
            level = _Level(pair, config.layers_per_block + 1, config, rngs=rngs)
            if index < len(widths) - 1:
                level.upsamplers = nnx.Dict({"0": _Sampler(width, stride=1, rngs=rngs)})
            self.up_blocks[str(index)] = level
        self.conv_norm_out = _norm(widths[-1], config, rngs)
        self.conv_out = _conv(widths[-1], config.out_channels, rngs)
        self.levels = len(widths)

    def __call__(self, z_BhwC: jax.Array) -> jax.Array:
        x_BhwC = self.mid_block(self.conv_in(z_BhwC))
        for index in range(self.levels):
            level = self.up_blocks[str(index)]
            x_BhwC = level(x_BhwC)
            if index < self.levels - 1:
                x_BhwC = x_BhwC.repeat(2, axis=1).repeat(2, axis=2)
                x_BhwC = level.upsamplers["0"].conv(x_BhwC)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x_BhwC)))


@functools.lru_cache(maxsize=16)
def _abstract(config: VaeConfig) -> tuple[_Encoder, _Decoder]:
    """Both halves without their weights; each takes long to trace."""
    return (
        nnx.eval_shape(lambda: _Encoder(config, rngs=nnx.Rngs(0))),
        nnx.eval_shape(lambda: _Decoder(config, rngs=nnx.Rngs(0))),
    )


@functools.lru_cache(maxsize=16)
def _graphs(config: VaeConfig) -> tuple[Any, Any]:
    encoder, decoder = _abstract(config)
    return nnx.graphdef(encoder), nnx.graphdef(decoder)


def init_weights(config: VaeConfig, key: jax.Array, dtype: Any = jnp.float32) -> Weights:
    """Random weights, named as in diffusers' AutoencoderKL, cast to `dtype`."""
    keys = jax.random.split(key)
    weights = {
        "encoder": nnx.to_pure_dict(nnx.state(_Encoder(config, rngs=nnx.Rngs(keys[0])))),
        "decoder": nnx.to_pure_dict(nnx.state(_Decoder(config, rngs=nnx.Rngs(keys[1])))),
    }
    return jax.tree.map(lambda x: x.astype(dtype), weights)


def abstract_weights(config: VaeConfig, dtype: Any = jnp.float32) -> Weights:
    """The tree of `init_weights` as ShapeDtypeStructs: a template to load into."""
    encoder, decoder = _abstract(config)
    halves = {"encoder": encoder, "decoder": decoder}
    weights = {name: nnx.to_pure_dict(nnx.state(half)) for name, half in halves.items()}
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), weights)


def encode(
    weights: Weights, config: VaeConfig, images_BHWC: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Posterior of the latents, before FLUX's scale and shift.

    Args:
      weights: tree of `init_weights`; activations take its dtype.
      config: shape of the autoencoder.
      images_BHWC: in [-1, 1], sides a multiple of `config.factor`.
    Returns:
      Mean and log variance, [B, H / factor, W / factor, C] each.
    """
    encoder = nnx.merge(_graphs(config)[0], weights["encoder"])
    moments = encoder(images_BHWC.astype(weights["encoder"]["conv_in"]["kernel"].dtype))
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)


def decode(weights: Weights, config: VaeConfig, z_BhwC: jax.Array) -> jax.Array:
    """Pictures [B, H, W, 3], about [-1, 1], from latents before FLUX's scale and shift."""
    decoder = nnx.merge(_graphs(config)[1], weights["decoder"])
    return decoder(z_BhwC.astype(weights["decoder"]["conv_in"]["kernel"].dtype))
