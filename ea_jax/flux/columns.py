"""Softmax columns of chosen keys: which are wanted, what they are, and factors on them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct


class Columns(struct.PyTreeNode):
    """Which keys' columns are wanted: the concept's text positions, padded to a fixed width.

    Attributes:
      idx_BN: int32 positions in the joint sequence (text comes first, so text positions as is).
      mask_BN: True at real positions, False at padding, whose columns are exactly 0.
    """

    idx_BN: jax.Array
    mask_BN: jax.Array

    def placed(self, t5_BTD: jax.Array, e_BND: jax.Array) -> jax.Array:
        """T5's outputs with others in the places of these columns.

        Args:
          t5_BTD: outputs of T5.
          e_BND: embeddings for each row's columns; where there are more columns than these, they
            begin again.
        Returns:
          [B, T, D] in the dtype of `t5_BTD`.
        """
        rows_B1 = jnp.arange(len(t5_BTD))[:, None]
        chosen_BND = e_BND[:, jnp.arange(self.idx_BN.shape[1]) % e_BND.shape[1]]
        # A column that is padding writes nowhere.
        idx_BN = jnp.where(self.mask_BN, self.idx_BN, t5_BTD.shape[1])
        return t5_BTD.at[rows_B1, idx_BN].set(chosen_BND.astype(t5_BTD.dtype), mode="drop")


class ColumnGain(struct.PyTreeNode):
    """Factors on the attention columns of text tokens, [B, T] each; None leaves a stack alone.

    0 removes a token from what every query sees, without renormalising the rest.
    """

    dual_BT: jax.Array | None = None
    single_BT: jax.Array | None = None


def with_gain(v_BSHE: jax.Array, gain_BT: jax.Array | None) -> jax.Array:
    """Values with those of the text scaled: so P with scaled columns, times V, is P times these."""
    if gain_BT is None:
        return v_BSHE
    text = v_BSHE[:, : gain_BT.shape[1]] * gain_BT[:, :, None, None].astype(v_BSHE.dtype)
    return jnp.concatenate([text, v_BSHE[:, gain_BT.shape[1] :]], axis=1)


def softmax_columns(
    q_BQHE: jax.Array,
    k_BSHE: jax.Array,
    lse_BHQ: jax.Array,
    columns: Columns,
    *,
    scale: float,
) -> jax.Array:
    """Columns of a softmax whose denominator is known.

    Args:
      q_BQHE, k_BSHE: queries and keys.
      lse_BHQ: logarithm of the denominator.
      columns: keys that are wanted.
      scale: of the logits.
    Returns:
      [B, H, Q, N] float32 in [0, 1], exactly 0 at padding. Gradients flow through all arrays.
    """
    # Gathered from the keys, not from the map: the transpose is a scatter of N rows, not of Q x N.
    k_BNHE = jnp.take_along_axis(k_BSHE, columns.idx_BN[:, :, None, None], axis=1)
    chosen_BHQN = jnp.einsum("bqhe,bnhe->bhqn", q_BQHE, k_BNHE, preferred_element_type=jnp.float32)
    cols_BHQN = jnp.exp(chosen_BHQN * scale - lse_BHQ[..., None])
    return jnp.where(columns.mask_BN[:, None, None, :], cols_BHQN, 0.0)
