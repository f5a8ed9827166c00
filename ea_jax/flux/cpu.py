"""What pays on CPUs alone: XLA's choices there, mended by hand. Elsewhere none of it is active."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.runtime.mesh import program_platform

_F32 = {"preferred_element_type": jnp.float32}


def product(x_BI: jax.Array, kernel_IO: jax.Array, kernel_OI: jax.Array) -> jax.Array:
    """x @ kernel, for a frozen kernel whose transpose is there too.

    A CPU multiplies by a transposed matrix at half the rate, or less, where there are few rows;
    the gradient of x is a product with the transpose that is there already.

    Raises:
      ValueError: the gradient of the kernel is asked for.
    """
    return _product(x_BI, kernel_IO, kernel_OI)


@jax.custom_vjp
def _product(x_BI, kernel_IO, kernel_OI):
    return x_BI @ kernel_IO


def _product_fwd(x, kernel, kernel_T):
    if kernel.perturbed or kernel_T.perturbed:
        raise ValueError(
            "kernels with their transposes beside them (kernel_T) are frozen and have no gradient; "
            "train kernels on stacked weights, model.blocks=stacked, or without transposes"
        )
    return x.value @ kernel.value, kernel_T.value


def _product_bwd(kernel_OI, y_BO):
    if isinstance(y_BO, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    return y_BO @ kernel_OI, None, None


_product.defvjp(_product_fwd, _product_bwd, symbolic_zeros=True)


def border(streams: Any) -> Any:
    """The streams between two blocks, as they are; on a CPU their cotangents are written down.

    XLA would compute a cotangent anew, through all blocks behind it, wherever one is read.
    """
    return _border(streams) if program_platform() == "cpu" else streams


@jax.custom_vjp
def _border(streams):
    return streams


_border.defvjp(lambda carry: (carry, None), lambda _, grad: (jax.lax.optimization_barrier(grad),))


def logits(q_BQHE: jax.Array, k_BKHE: jax.Array) -> jax.Array:
    """Products of queries and keys, [B, H, Q, K] float32.

    On a CPU with a gradient of its own: XLA transposes the attention map for JAX's.
    """
    return (_logits if program_platform() == "cpu" else _plain_logits)(q_BQHE, k_BKHE)


def _plain_logits(q_BQHE, k_BKHE):
    return jnp.einsum("bqhe,bkhe->bhqk", q_BQHE, k_BKHE, **_F32)


_logits = jax.custom_vjp(_plain_logits)


def _logits_bwd(inputs, g_BHQK):
    q, k = inputs
    # Summed over its rows, the map stands second; first, as JAX has it, XLA transposes it.
    q_BHQE = jnp.einsum("bhqk,bkhe->bhqe", g_BHQK, k.astype(g_BHQK.dtype))
    k_BHEK = jnp.einsum("bqhe,bhqk->bhek", q.astype(g_BHQK.dtype), g_BHQK)
    return (
        jnp.moveaxis(q_BHQE, 1, 2).astype(q.dtype),
        jnp.moveaxis(k_BHEK, 3, 1).astype(k.dtype),
    )


_logits.defvjp(lambda q, k: (_plain_logits(q, k), (q, k)), _logits_bwd)


def lookup(table_VD: jax.Array, ids: jax.Array | np.ndarray) -> jax.Array:
    """Rows of an embedding table, `table_VD[ids]`, shape [*ids.shape, D].

    On a CPU its gradient is a product with one-hot rows: XLA scatters one number at a time there,
    which took most of a text encoder's step.
    """
    return _lookup(table_VD, ids) if program_platform() == "cpu" else table_VD[ids]


@jax.custom_vjp
def _lookup(table_VD, ids):
    return table_VD[ids]


def _lookup_bwd(saved, grad):
    ids, rows = saved
    ones_BV = jax.nn.one_hot(jnp.ravel(ids), rows, dtype=grad.dtype)
    return ones_BV.T @ grad.reshape(-1, grad.shape[-1]), None


_lookup.defvjp(lambda table, ids: (table[ids], (ids, table.shape[0])), _lookup_bwd)
