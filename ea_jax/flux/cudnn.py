"""Attention by cuDNN's flash kernel, with columns of its softmax as further lanes of the values.

Column n of P is P times the one-hot vector of its key, so with

    V' = [V | onehot(idx)],   P V' = [out | P[:, :, idx]]

the kernel's own gradient is the columns' too. Queries and keys are padded with zeros to the width
of V', which adds nothing to their products.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ea_jax.flux.axes import device_axes
from ea_jax.flux.columns import Columns

# cuDNN takes multiples of 8. Its backward pass takes wider heads than these on Hopper alone.
LANES, WIDEST = 8, 128
# CUDA's compute capability, and the version of cuDNN (9.10) that takes values wider than queries.
HOPPER, CUDNN = "9.0", 91000


def attention_and_columns(
    q_BSHE: jax.Array,
    k_BSHE: jax.Array,
    v_BSHE: jax.Array,
    columns: Columns | None,
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> tuple[jax.Array, jax.Array | None]:
    """Softmax attention without a mask; optionally the columns of some keys.

    A program with it can't be compiled ahead of time: JAX asks a GPU of this process whether it
    has the kernel.

    Args:
      q_BSHE, k_BSHE, v_BSHE: queries, keys, values, bfloat16 or float16.
      columns: keys whose softmax columns are returned.
      implementation: JAX's name of it; `xla` takes any dtype on any device, for tests.
    Returns:
      The attention's output [B, S, H, E] in v's dtype, and the columns [B, H, Q, N] float32 in
      [0, 1], of v's precision, with Q = S; or None.
    Raises:
      ValueError: another dtype, an odd number of tokens, or a device without this kernel.
    """
    E = q_BSHE.shape[-1]
    wanted = 0 if columns is None else columns.idx_BN.shape[1]
    width = lanes(E, wanted)
    if implementation == "cudnn":
        require_kernel(q_BSHE.dtype, jax.default_backend(), width, q_BSHE.shape[1])
    wide_v_BSHE = v_BSHE
    if columns is not None:
        wide_v_BSHE = jnp.concatenate([v_BSHE, _lanes(columns, v_BSHE)], axis=-1)
    wide_q_BSHE, wide_k_BSHE = _widen(q_BSHE, width), _widen(k_BSHE, width)
    wide_v_BSHE = _widen(wide_v_BSHE, width)
    wide_out_BSHE = jax.nn.dot_product_attention(
        wide_q_BSHE, wide_k_BSHE, wide_v_BSHE, scale=E**-0.5, implementation=implementation
    )
    out_BSHE = wide_out_BSHE[..., :E]
    if columns is None:
        return out_BSHE, None
    cols_BQHN = wide_out_BSHE[..., E : E + wanted]
    return out_BSHE, jnp.moveaxis(cols_BQHN, 1, 2).astype(jnp.float32)


def lanes(head: int, columns: int) -> int:
    """Width of the kernel's heads, for heads of the model and so many columns."""
    return head + columns + -(head + columns) % LANES


def require_kernel(dtype: jnp.dtype, platform: str, width: int, tokens: int) -> None:
    """Raises ValueError, with what to set, if the kernel can't take what a run will give it.

    Args:
      dtype: of queries, keys and values.
      platform: of the devices: "cpu", "gpu" or "tpu".
      width: of the kernel's heads, see `lanes`.
      tokens: of text and image.
    """
    _check_dtype(dtype)
    _check_device(platform, width)
    _check_length(tokens)


def pays(dtype: jnp.dtype, width: int, tokens: int) -> bool:
    """Whether a GPU of this process has the kernel, and runs it faster than plain XLA.

    Args:
      dtype, width, tokens: see `require_kernel`.
    """
    if jax.default_backend() != "gpu":
        return False
    from jax._src.cudnn import fused_attention_stablehlo as stablehlo

    if not stablehlo.check_compute_capability(HOPPER) or stablehlo.check_cudnn_version() < CUDNN:
        return False
    try:
        require_kernel(dtype, "gpu", width, tokens)
    except ValueError:
        return False
    return True


def _check_dtype(dtype: jnp.dtype) -> None:
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"attention backend 'cudnn' takes half precision, not {dtype}; "
            "set model.dtype=bfloat16, or model.attention=chunked"
        )


def _check_device(platform: str, width: int) -> None:
    if platform != "gpu":
        raise ValueError(
            f"attention backend 'cudnn' asks an NVIDIA GPU of this process for its kernel, and "
            f"the process has {platform}; set model.attention=chunked"
        )
    capability = jax.local_devices()[0].compute_capability
    if width > WIDEST and not capability.startswith("9."):
        raise ValueError(
            f"attention backend 'cudnn' needs heads of {width} with the columns, and above "
            f"{WIDEST} a Hopper GPU (9.x); this one is {capability}; set model.attention=chunked"
        )


def _check_length(tokens: int) -> None:
    # On an H100 gradients at 131 and 13 tokens failed; even numbers, 14 to 4608, were right.
    if tokens % 2:
        raise ValueError(
            f"attention backend 'cudnn' needs an even number of tokens for its gradient, not "
            f"{tokens} (text and image); set an even model.text_length, or model.attention=chunked"
        )


def _lanes(columns: Columns, v_BSHE: jax.Array) -> jax.Array:
    """One-hot vectors of the columns' keys, [B, S, H, N]; zeros at padding."""
    positions_S = jnp.arange(v_BSHE.shape[1])
    hot_BSN = positions_S[None, :, None] == columns.idx_BN[:, None]
    hot_BSN = (hot_BSN & columns.mask_BN[:, None]).astype(v_BSHE.dtype)
    shape = (*v_BSHE.shape[:3], hot_BSN.shape[-1])
    return jnp.broadcast_to(hot_BSN[:, :, None], shape)


def _widen(x_BSHE: jax.Array, width: int) -> jax.Array:
    """Pads heads with zeros; split over devices like the model's heads, as JAX's call demands."""
    padded = jnp.pad(x_BSHE, ((0, 0), (0, 0), (0, 0), (0, width - x_BSHE.shape[-1])))
    axes = device_axes(padded.shape[0], padded.shape[2])
    if axes is None:
        return padded
    rows, heads = axes
    return jax.lax.with_sharding_constraint(padded, PartitionSpec(rows, None, heads, None))
