"""Attention by JAX's splash kernel for TPUs, with a gradient through the softmax's denominator.

The kernel hands out lse, the logarithm of the denominator, and refuses to differentiate through
it. With lse as an output of its own, the gradient with respect to the logits S is

    dS = P * (dP - (delta - dlse)),   delta = rowsum(O * dO)

and the kernel's backward pass takes delta as an argument: given delta - dlse instead, it is exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ea_jax.flux.axes import device_axes
from ea_jax.runtime.mesh import program_platform

# Of a TPU. Narrower heads than these leave lanes idle.
LANES = 128
# Queries and keys of a tile of the map, multiples of the lanes.
TILES = (512, 384, 256)


class _Call(NamedTuple):
    """What a call of the kernel depends on besides its arrays.

    Attributes:
      length: of the sequence before it was padded.
      tile: queries and keys at a time.
      interpret: whether the kernel is run as plain JAX operations.
    """

    length: int
    tile: int
    interpret: bool


def attention_and_lse(
    q_BSHE: jax.Array, k_BSHE: jax.Array, v_BSHE: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention without a mask and without a scale, and its denominator.

    On the mesh of `jax.set_mesh`, each device works on its own rows and heads.

    Args:
      q_BSHE: queries, already multiplied by the scale: logits are q . k.
      k_BSHE, v_BSHE: keys and values in the queries' dtype.
      interpret: runs the kernel as plain JAX operations on any device, for tests.
    Returns:
      The output [B, S, H, E] in v's dtype, and the logarithm of the softmax's denominator
      [B, H, S] float32. Gradients flow through both.
    Raises:
      ValueError: the devices aren't TPUs.
    """
    if not interpret:
        require_tpu(program_platform())
    length = q_BSHE.shape[1]
    tile = _tile(length)

    def padded(x_BSHE: jax.Array) -> jax.Array:
        return jnp.pad(jnp.swapaxes(x_BSHE, 1, 2), ((0, 0), (0, 0), (0, -length % tile), (0, 0)))

    out_BHSE, lse_BHS = _attend(
        padded(q_BSHE), padded(k_BSHE), padded(v_BSHE), _Call(length, tile, interpret)
    )
    out_BSHE = jnp.swapaxes(out_BHSE[:, :, :length], 1, 2)
    return out_BSHE.astype(v_BSHE.dtype), lse_BHS[:, :, :length]


def require_tpu(platform: str) -> None:
    """Raises ValueError unless the devices, "cpu", "gpu" or "tpu", are TPUs."""
    if platform != "tpu":
        raise ValueError(
            f"attention backend 'splash' runs on TPUs, not on {platform}; "
            "set model.attention=chunked"
        )


def _tile(length: int) -> int:
    """The tile that pads a sequence least; of several, the largest."""
    return min(TILES, key=lambda tile: (-length % tile, -tile))


def _attend_primal(q_BHSE, k_BHSE, v_BHSE, call):
    return _per_device(_forward, call, q_BHSE, k_BHSE, v_BHSE)


def _attend_fwd(q_BHSE, k_BHSE, v_BHSE, call):
    out_BHSE, lse_BHS = _attend_primal(q_BHSE, k_BHSE, v_BHSE, call)
    return (out_BHSE, lse_BHS), (q_BHSE, k_BHSE, v_BHSE, out_BHSE, lse_BHS)


def _attend_bwd(call, residuals, cotangents):
    q_BHSE, k_BHSE, v_BHSE, out_BHSE, lse_BHS = residuals
    dout_BHSE, dlse_BHS = cotangents
    f32 = jnp.float32
    delta_BHS = jnp.sum(out_BHSE.astype(f32) * dout_BHSE.astype(f32), axis=-1)
    given = (q_BHSE, k_BHSE, v_BHSE, lse_BHS, dout_BHSE, delta_BHS - dlse_BHS)
    return _per_device(_backward, call, *given)


_attend = jax.custom_vjp(_attend_primal, nondiff_argnums=(3,))
_attend.defvjp(_attend_fwd, _attend_bwd)


def _per_device(function: Callable[..., tuple], call: _Call, *arrays: jax.Array) -> tuple:
    """Runs a function of [B, H, ...] arrays on each device's rows and heads.

    Nothing but `shard_map` may split a kernel: the compiler doesn't know what is inside.
    """
    axes = device_axes(*arrays[0].shape[:2])
    run = functools.partial(function, call)
    if axes is None:
        return run(*arrays)
    split = PartitionSpec(*axes)
    # The kernel doesn't say along which axes its results vary, so that can't be checked.
    return jax.shard_map(run, in_specs=split, out_specs=split, check_vma=False)(*arrays)


def _forward(call, q_BHSE, k_BHSE, v_BHSE):
    kernel = _kernel(call, q_BHSE.shape)
    segments = _segments(call, q_BHSE.shape[2])
    out_BHSE, (lse_BHS,) = jax.vmap(functools.partial(kernel, segment_ids=segments))(
        q_BHSE, k_BHSE, v_BHSE
    )
    return out_BHSE, lse_BHS


def _backward(call, q_BHSE, k_BHSE, v_BHSE, lse_BHS, dout_BHSE, delta_BHS):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    kernel = _kernel(call, q_BHSE.shape)
    blocks = kernel.kwargs["block_sizes"]
    options = {
        "is_mqa": False,
        "mask_value": kernel.kwargs["mask_value"],
        "attn_logits_soft_cap": None,
        "q_layout": blocks.q_layout,
        "k_layout": blocks.k_layout,
        "v_layout": blocks.v_layout,
        "mask_function": kernel.kwargs["mask_function"],
        "interpret": call.interpret,
    }
    segments = _segments(call, q_BHSE.shape[2])

    def one(q_HSE, k_HSE, v_HSE, lse_HS, dout_HSE, delta_HS):
        arrays = (q_HSE, k_HSE, v_HSE, segments, None, lse_HS, dout_HSE, delta_HS)
        dq_HSE = splash._splash_attention_bwd_dq(
            *arrays, bq=call.tile, bkv=call.tile, mask_info=kernel.dq_mask_info, **options
        )
        _, dk_HSE, dv_HSE = splash._splash_attention_bwd_dkv(
            *arrays,
            bq=call.tile,
            bkv=call.tile,
            bkv_compute=call.tile,
            use_fused_bwd_kernel=False,
            mask_info=kernel.dkv_mask_info,
            **options,
        )
        return dq_HSE, dk_HSE, dv_HSE

    return jax.vmap(one)(q_BHSE, k_BHSE, v_BHSE, lse_BHS, dout_BHSE, delta_BHS)


def _kernel(call: _Call, shape: tuple[int, ...]) -> Any:
    """The kernel for one row [H, S, E], with what its forward and backward passes share."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, heads, width, _ = shape
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    return splash.make_splash_mha(
        splash.MultiHeadMask([splash.FullMask((width, width))] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, call.tile)),
        head_shards=1,
        q_seq_shards=1,
        save_residuals=True,
        interpret=call.interpret,
    )


def _segments(call: _Call, width: int) -> Any:
    """Apart from padded keys, everything is one segment: no query sees a key of another."""
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    if width == call.length:
        return None
    queries = jnp.zeros(width, jnp.int32)
    return SegmentIds(queries, (jnp.arange(width) >= call.length).astype(jnp.int32))
