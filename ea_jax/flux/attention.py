"""Joint attention that also hands out softmax columns of chosen keys.

The loss on a concept needs `P[:, :, idx]`, the attention that every query pays to the concept's
tokens, never the whole map: at 1024 px one map of FLUX is 24 x 4608 x 4608 numbers. A column is

    cols = exp(q . k_idx * scale - lse)

with `lse` the logarithm of the softmax's denominator, and its gradient flows through both.
"""

from __future__ import annotations

import difflib
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ea_jax.flux import cpu
from ea_jax.flux.columns import Columns, softmax_columns

QUERY_CHUNK = 512
_F32 = {"preferred_element_type": jnp.float32}


def joint_attention(
    q_BQHE: jax.Array,
    k_BSHE: jax.Array,
    v_BSHE: jax.Array,
    columns: Columns | None = None,
    *,
    backend: str = "chunked",
) -> tuple[jax.Array, jax.Array | None]:
    """Softmax attention without a mask; optionally the columns of some keys.

    Args:
      q_BQHE, k_BSHE, v_BSHE: queries, keys, values, any float dtype; logits and softmax are
        float32. There may be fewer queries than keys.
      columns: keys whose softmax columns are returned.
      backend: `full` writes the map out; `chunked` holds it for 512 queries at a time and
        recomputes it in the backward pass; `splash` is a kernel for TPUs, `cudnn` one for Hopper
        GPUs in half precision, see the modules of these names. All of them are exact, gradients
        included, up to the rounding of the inputs' dtype.
    Returns:
      The attention's output [B, Q, H, E] in v's dtype, and the columns [B, H, Q, N] float32 in
      [0, 1], or None.
    Raises:
      ValueError: unknown backend, or one that these devices or this dtype can't have.
    """
    check_backend(backend)
    return _BACKENDS[backend](q_BQHE, k_BSHE, v_BSHE, columns)


def check_backend(name: str) -> None:
    """Raises ValueError, with the nearest known name, if `name` is not an attention backend."""
    if name not in _BACKENDS:
        close = difflib.get_close_matches(name, _BACKENDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {sorted(_BACKENDS)}"
        raise ValueError(f"attention backend {name!r} is unknown; {hint}")


def require_backend(
    name: str, platform: str, *, dtype: Any, head: int, columns: int, tokens: int
) -> None:
    """Raises ValueError, with what to use, if a backend can't serve a run on these devices.

    Args:
      name: of the backend.
      platform: of the devices: "cpu", "gpu" or "tpu".
      dtype: of queries, keys and values.
      head: width E of a head.
      columns: the most keys whose columns will be wanted.
      tokens: of text and image together.
    """
    check_backend(name)
    if name == "splash":
        from ea_jax.flux import splash

        splash.require_tpu(platform)
    if name == "cudnn":
        from ea_jax.flux import cudnn

        cudnn.require_kernel(jnp.dtype(dtype), platform, cudnn.lanes(head, columns), tokens)


def resolve_backend(
    name: str, platform: str, *, dtype: Any, head: int, columns: int, tokens: int
) -> str:
    """The name of a backend: `auto` is the fastest that these devices can have.

    That is `cudnn` on a Hopper GPU or later, `splash` on TPUs, and else `chunked`. A program that
    is compiled ahead of time gets no `cudnn`, which asks a GPU of this process.

    Args:
      name: a backend, which stays as it is, or `auto`.
      platform, dtype, head, columns, tokens: see `require_backend`.
    Raises:
      ValueError: an unknown name.
    """
    if name != "auto":
        check_backend(name)
        return name
    if platform == "tpu":
        from ea_jax.flux import splash

        return "splash" if head % splash.LANES == 0 else "chunked"
    if platform == "gpu":
        from ea_jax.flux import cudnn

        width = cudnn.lanes(head, columns)
        return "cudnn" if cudnn.pays(jnp.dtype(dtype), width, tokens) else "chunked"
    return "chunked"


def _full(q, k, v, columns):
    scale = q.shape[-1] ** -0.5
    logits_BHQK = cpu.logits(q, k)
    # Neither the output nor the denominator depends on it.
    top_BHQ1 = jax.lax.stop_gradient(logits_BHQK.max(-1, keepdims=True))
    weights_BHQK = jnp.exp((logits_BHQK - top_BHQ1) * scale)
    total_BHQ1 = weights_BHQK.sum(-1, keepdims=True)
    # Divided after the product: exponentials are taken once. Heads lead in it, so that XLA
    # multiplies the map as it lies, where on a CPU it would turn it round.
    v_BHKE = jnp.moveaxis(v, 1, 2)
    out_BHQE = jnp.einsum("bhqk,bhke->bhqe", weights_BHQK.astype(v.dtype), v_BHKE, **_F32)
    out = jnp.moveaxis(out_BHQE / total_BHQ1, 1, 2).astype(v.dtype)
    if columns is None:
        return out, None
    lse_BHQ = (top_BHQ1 * scale + jnp.log(total_BHQ1))[..., 0]
    return out, softmax_columns(q, k, lse_BHQ, columns, scale=scale)


def _chunk(q, k, v, columns):
    """`_full` for large maps: no exponentials in float32 are written, they are taken twice."""
    scale = q.shape[-1] ** -0.5
    logits_BHQK = jnp.einsum("bqhe,bkhe->bhqk", q, k, **_F32) * scale
    lse_BHQ = jax.nn.logsumexp(logits_BHQK, axis=-1)
    weights_BHQK = jnp.exp(logits_BHQK - lse_BHQ[..., None])
    out = jnp.einsum("bhqk,bkhe->bqhe", weights_BHQK.astype(v.dtype), v, **_F32).astype(v.dtype)
    if columns is None:
        return out, None
    return out, softmax_columns(q, k, lse_BHQ, columns, scale=scale)


def _chunked(q, k, v, columns):
    B, Q, H, E = q.shape
    if Q <= QUERY_CHUNK:
        return _full(q, k, v, columns)
    chunks = -(-Q // QUERY_CHUNK)
    width = -(-Q // chunks)  # even chunks: least padding
    padded = jnp.pad(q, ((0, 0), (0, chunks * width - Q), (0, 0), (0, 0)))
    q_chunks = jnp.moveaxis(padded.reshape(B, chunks, width, H, E), 1, 0)
    one = jax.checkpoint(functools.partial(_chunk, k=k, v=v, columns=columns))
    out_chunks, cols_chunks = jax.lax.map(one, q_chunks)
    out = jnp.moveaxis(out_chunks, 0, 1).reshape(B, chunks * width, H, E)[:, :Q]
    if columns is None:
        return out, None
    cols = jnp.moveaxis(cols_chunks, 0, 2).reshape(B, H, chunks * width, -1)[:, :, :Q]
    return out, cols


def _square(kernel):
    """A kernel that takes as many queries as keys: zeros are added, and their rows dropped."""

    def attend(q, k, v, columns):
        Q = q.shape[1]
        q = jnp.pad(q, ((0, 0), (0, k.shape[1] - Q), (0, 0), (0, 0)))
        out, cols = kernel(q, k, v, columns)
        return out[:, :Q], None if cols is None else cols[:, :, :Q]

    return attend


# Kernels are imported where they are used: nobody else needs Pallas.
@_square
def _splash(q, k, v, columns):
    from ea_jax.flux import splash

    # The kernel has no scale. Columns take the queries as rounded here, or rows wouldn't sum to 1.
    q = q * q.shape[-1] ** -0.5
    out, lse_BHQ = splash.attention_and_lse(q, k, v)
    return out, None if columns is None else softmax_columns(q, k, lse_BHQ, columns, scale=1.0)


@_square
def _cudnn(q, k, v, columns):
    from ea_jax.flux import cudnn

    return cudnn.attention_and_columns(q, k, v, columns)


_BACKENDS = {"full": _full, "chunked": _chunked, "splash": _splash, "cudnn": _cudnn}
