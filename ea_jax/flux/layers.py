"""One dual-stream block, one single-stream block, and the parts around them, as NNX modules.

A module describes a single block; transformer.py scans it over weights stacked on a layer axis.
Names are diffusers' `FluxTransformer2DModel`'s. `lora` is the adapter subtree of the same block:
its leaves are pairs {A: [in, r], B: [r, out]} in the place of a projection's kernel.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ea_jax.flux import cpu
from ea_jax.flux.attention import joint_attention
from ea_jax.flux.columns import Columns, with_gain
from ea_jax.flux.rope import rotate

Adapters = dict[str, Any]
NORM_EPS = 1e-6
TIME_WIDTH = 256


class Linear(nnx.Linear):
    """A linear layer, of which a frozen one may have its kernel's transpose beside it.

    Attributes:
      kernel_T: transpose of the kernel, [out, in], or None; see `cpu.product`.
    """

    kernel_T: Any = None

    def __call__(self, x_BI: jax.Array) -> jax.Array:
        if self.kernel_T is None:
            return super().__call__(x_BI)
        y_BO = cpu.product(x_BI, self.kernel[...], self.kernel_T[...])
        return y_BO if self.bias is None else y_BO + self.bias[...]


def project(linear: Linear, x: jax.Array, lora: Adapters | None, name: str) -> jax.Array:
    """A linear layer plus its adapter, if `lora` holds one: x W + b + (x A) B."""
    # As one matrix of rows: XLA's gradient of a product with two leading axes is slow on a CPU.
    rows = x.reshape(-1, x.shape[-1])
    y = linear(rows)
    if lora is not None and name in lora:
        adapter = lora[name]
        y = y + (rows @ adapter["A"].astype(x.dtype)) @ adapter["B"].astype(x.dtype)
    return y.reshape(*x.shape[:-1], -1)


def part(lora: Adapters | None, name: str) -> Adapters | None:
    """The adapters of one submodule, or None."""
    return None if lora is None else lora.get(name)


def normalise(x: jax.Array) -> jax.Array:
    """LayerNorm without weights, statistics in float32."""
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + NORM_EPS)).astype(x.dtype)


def modulate(x_BSD: jax.Array, shift_BD: jax.Array, scale_BD: jax.Array) -> jax.Array:
    """AdaLN: a normalised stream scaled and shifted by the conditioning."""
    return normalise(x_BSD) * (1 + scale_BD[:, None]) + shift_BD[:, None]


def sinusoid(t_B: jax.Array) -> jax.Array:
    """Sinusoidal features of t in 0..1000, [B, 256] float32, cosines first."""
    half = TIME_WIDTH // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = t_B.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def _thousandfold(t_B: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """t x 1000, rounded to the activations' dtype before and after, as diffusers does.

    In bfloat16 that moves the angle: guidance 3.5 becomes 3504. Under jit, XLA would keep a plain
    cast in float32; `reduce_precision` is the rounding it must not drop. In float32 it rounds
    nothing, but keeps XLA from multiplying the thousand into the frequencies.
    """
    kind = jnp.finfo(dtype)
    rounded = jax.lax.reduce_precision(t_B.astype(jnp.float32), kind.nexp, kind.nmant)
    return jax.lax.reduce_precision(1000 * rounded, kind.nexp, kind.nmant)


class Mlp(nnx.Module):
    """linear, SiLU, linear: the embedders of time, guidance and pooled text."""

    def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs):
        self.linear_1 = Linear(width_in, width, rngs=rngs)
        self.linear_2 = Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, lora: Adapters | None) -> jax.Array:
        hidden = jax.nn.silu(project(self.linear_1, x, lora, "linear_1"))
        return project(self.linear_2, hidden, lora, "linear_2")


class TimeTextEmbed(nnx.Module):
    """Time, guidance (if the model is guidance-distilled) and pooled text to one vector."""

    def __init__(self, width: int, pooled_width: int, guidance: bool, *, rngs: nnx.Rngs):
        self.timestep_embedder = Mlp(TIME_WIDTH, width, rngs=rngs)
        if guidance:
            self.guidance_embedder = Mlp(TIME_WIDTH, width, rngs=rngs)
        self.text_embedder = Mlp(pooled_width, width, rngs=rngs)

    def __call__(
        self,
        t_B: jax.Array,
        guidance_B: jax.Array | None,
        pooled_BD: jax.Array,
        *,
        lora: Adapters | None,
    ) -> jax.Array:
        dtype = pooled_BD.dtype
        features = sinusoid(_thousandfold(t_B, dtype)).astype(dtype)
        temb = self.timestep_embedder(features, part(lora, "timestep_embedder"))
        if guidance_B is not None:
            features = sinusoid(_thousandfold(guidance_B, dtype)).astype(dtype)
            temb = temb + self.guidance_embedder(features, part(lora, "guidance_embedder"))
        return temb + self.text_embedder(pooled_BD, part(lora, "text_embedder"))


class Modulation(nnx.Module):
    """SiLU and a linear layer that yields a block's shifts, scales and gates."""

    def __init__(self, width: int, chunks: int, *, rngs: nnx.Rngs):
        self.linear = Linear(width, chunks * width, rngs=rngs)
        self.chunks = chunks

    def __call__(self, temb_BD: jax.Array, lora: Adapters | None) -> list[jax.Array]:
        out = project(self.linear, jax.nn.silu(temb_BD), lora, "linear")
        return jnp.split(out, self.chunks, axis=-1)


class FeedForward(nnx.Module):
    """linear to 4 D, GELU (tanh), linear back."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.up = Linear(width, 4 * width, rngs=rngs)
        self.down = Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, lora: Adapters | None) -> jax.Array:
        hidden = jax.nn.gelu(project(self.up, x, lora, "up"), approximate=True)
        return project(self.down, hidden, lora, "down")


def _heads(x_BSD: jax.Array, heads: int) -> jax.Array:
    return x_BSD.reshape(*x_BSD.shape[:-1], heads, -1)


def _qk_norm(head_width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(head_width, epsilon=NORM_EPS, rngs=rngs)


class Attention(nnx.Module):
    """Projections of one stream (single blocks) or of image and text (dual blocks)."""

    to_q: Linear
    to_k: Linear
    to_v: Linear
    to_out: Linear
    add_q_proj: Linear
    add_k_proj: Linear
    add_v_proj: Linear
    to_add_out: Linear

    def __init__(self, width: int, heads: int, *, dual: bool, rngs: nnx.Rngs):
        self.heads = heads
        names = ["to_q", "to_k", "to_v"]
        if dual:
            names += ["to_out", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
            self.norm_added_q = _qk_norm(width // heads, rngs)
            self.norm_added_k = _qk_norm(width // heads, rngs)
        for name in names:
            setattr(self, name, Linear(width, width, rngs=rngs))
        self.norm_q = _qk_norm(width // heads, rngs)
        self.norm_k = _qk_norm(width // heads, rngs)

    def image_qkv(
        self, x_BSD: jax.Array, lora: Adapters | None, *, start: int = 0
    ) -> tuple[jax.Array, ...]:
        """Queries of rows `start` on, keys and values of all."""
        q = _heads(project(self.to_q, x_BSD[:, start:], lora, "to_q"), self.heads)
        k = _heads(project(self.to_k, x_BSD, lora, "to_k"), self.heads)
        v = _heads(project(self.to_v, x_BSD, lora, "to_v"), self.heads)
        return self.norm_q(q), self.norm_k(k), v

    def text_qkv(self, x_BTD: jax.Array, lora: Adapters | None) -> tuple[jax.Array, ...]:
        q = _heads(project(self.add_q_proj, x_BTD, lora, "add_q_proj"), self.heads)
        k = _heads(project(self.add_k_proj, x_BTD, lora, "add_k_proj"), self.heads)
        v = _heads(project(self.add_v_proj, x_BTD, lora, "add_v_proj"), self.heads)
        return self.norm_added_q(q), self.norm_added_k(k), v


def _attend(qkv, rope, columns, gain_BT, backend):
    """Rotates, scales the text's columns, attends; heads merged in the result.

    Where there are fewer queries than keys, they are those of the last positions.
    """
    q, k, v = qkv
    rope_q = tuple(table_Se[k.shape[1] - q.shape[1] :] for table_Se in rope)
    v = with_gain(v, gain_BT)
    out, cols = joint_attention(rotate(q, rope_q), rotate(k, rope), v, columns, backend=backend)
    return out.reshape(*out.shape[:2], -1), cols


class DualBlock(nnx.Module):
    """Image and text streams with their own weights and one joint attention."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.norm1 = Modulation(width, 6, rngs=rngs)
        self.norm1_context = Modulation(width, 6, rngs=rngs)
        self.attn = Attention(width, heads, dual=True, rngs=rngs)
        self.ff = FeedForward(width, rngs=rngs)
        self.ff_context = FeedForward(width, rngs=rngs)

    def text_input(
        self, text_BTD: jax.Array, temb_BD: jax.Array, lora: Adapters | None
    ) -> jax.Array:
        """What the text's projections to queries, keys and values are given, [B, T, D]."""
        shift, scale, *_ = self.norm1_context(temb_BD, part(lora, "norm1_context"))
        return modulate(text_BTD, shift, scale)

    def __call__(
        self,
        image_BSD: jax.Array,
        text_BTD: jax.Array,
        temb_BD: jax.Array,
        *,
        rope: tuple[jax.Array, jax.Array],
        lora: Adapters | None = None,
        columns: Columns | None = None,
        gain_BT: jax.Array | None = None,
        backend: str = "chunked",
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns the two streams and the columns [B, H, Q, N] (text queries first) or None."""
        i_shift, i_scale, i_gate, i_shift2, i_scale2, i_gate2 = self.norm1(
            temb_BD, part(lora, "norm1")
        )
        t_shift, t_scale, t_gate, t_shift2, t_scale2, t_gate2 = self.norm1_context(
            temb_BD, part(lora, "norm1_context")
        )
        adapters = part(lora, "attn")
        image_qkv = self.attn.image_qkv(modulate(image_BSD, i_shift, i_scale), adapters)
        text_qkv = self.attn.text_qkv(modulate(text_BTD, t_shift, t_scale), adapters)
        qkv = [jnp.concatenate(pair, axis=1) for pair in zip(text_qkv, image_qkv, strict=True)]
        joint, cols = _attend(qkv, rope, columns, gain_BT, backend)
        T = text_BTD.shape[1]

        image_out = project(self.attn.to_out, joint[:, T:], adapters, "to_out")
        image_BSD = image_BSD + i_gate[:, None] * image_out
        hidden = self.ff(modulate(image_BSD, i_shift2, i_scale2), part(lora, "ff"))
        image_BSD = image_BSD + i_gate2[:, None] * hidden

        text_out = project(self.attn.to_add_out, joint[:, :T], adapters, "to_add_out")
        text_BTD = text_BTD + t_gate[:, None] * text_out
        hidden = self.ff_context(modulate(text_BTD, t_shift2, t_scale2), part(lora, "ff_context"))
        text_BTD = text_BTD + t_gate2[:, None] * hidden
        return image_BSD, text_BTD, cols


class SingleBlock(nnx.Module):
    """Text and image in one stream; attention and MLP side by side."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.norm = Modulation(width, 3, rngs=rngs)
        self.attn = Attention(width, heads, dual=False, rngs=rngs)
        self.proj_mlp = Linear(width, 4 * width, rngs=rngs)
        self.proj_out = Linear(5 * width, width, rngs=rngs)

    def __call__(
        self,
        joint_BSD: jax.Array,
        temb_BD: jax.Array,
        *,
        rope: tuple[jax.Array, jax.Array],
        lora: Adapters | None = None,
        gain_BT: jax.Array | None = None,
        backend: str = "chunked",
        start: int = 0,
    ) -> jax.Array:
        """Returns the stream's rows `start` on; those before it are only attended to."""
        shift, scale, gate = self.norm(temb_BD, part(lora, "norm"))
        x = modulate(joint_BSD, shift, scale)
        qkv = self.attn.image_qkv(x, part(lora, "attn"), start=start)
        joint_BSD, x = joint_BSD[:, start:], x[:, start:]
        attended, _ = _attend(qkv, rope, None, gain_BT, backend)
        hidden = jax.nn.gelu(project(self.proj_mlp, x, lora, "proj_mlp"), approximate=True)
        both = jnp.concatenate([attended, hidden], axis=-1)
        return joint_BSD + gate[:, None] * project(self.proj_out, both, lora, "proj_out")


# Stack of the transformer -> what it is a stack of.
BLOCKS = {"transformer_blocks": DualBlock, "single_transformer_blocks": SingleBlock}
