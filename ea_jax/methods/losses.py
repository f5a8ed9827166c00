"""The losses of EraseAnything as pure functions: arrays in, one float32 number a row out.

Equations are those of "EraseAnything" (ICML 2025). `v` is a velocity, `cols` are softmax columns
of the concept's tokens (see ea_jax.flux.attention), a feature is a map of attention over the
image's tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def erasing_target(anchor_BSC: jax.Array, concept_BSC: jax.Array, *, eta: float) -> jax.Array:
    """Where L_esd (Eq. 2) pulls the student: away from the concept, from the anchor's side.

    Args:
      anchor_BSC: the teacher's velocity under the anchor prompt.
      concept_BSC: the teacher's velocity under the concept's prompt, same x_t and t.
      eta: strength of the negative guidance; 0 gives the anchor's velocity, 1 is the paper's.
    Returns:
      [B, S, C] float32; no gradient flows into it.
    """
    anchor = anchor_BSC.astype(jnp.float32)
    return jax.lax.stop_gradient(anchor - eta * (concept_BSC.astype(jnp.float32) - anchor))


def velocity_error(v_BSC: jax.Array, target_BSC: jax.Array) -> jax.Array:
    """Mean squared error over tokens and channels, [B] float32: L_esd, L_lora (Eq. 4), L_keep."""
    difference = v_BSC.astype(jnp.float32) - target_BSC.astype(jnp.float32)
    return jnp.square(difference).mean((1, 2))


def mean_of(values_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    """Mean over the rows of a batch that count: weight 1 for real ones, 0 for those that fill."""
    return (values_B * weight_B).sum() / weight_B.sum()


def attention_mass(cols_BHQN: jax.Array, mask_BN: jax.Array) -> jax.Array:
    """Share of attention that queries pay to the concept's tokens.

    Eq. 3, normalised: the mean over heads and queries of the sum over the concept's columns, so
    that the number means the same at every resolution.

    Args:
      cols_BHQN: softmax columns; each row's full softmax sums to 1.
      mask_BN: True at real concept tokens, False at padding.
    Returns:
      [B] float32 in [0, 1].
    """
    return _masked(cols_BHQN, mask_BN).sum(-1).mean((1, 2))


def attention_sum(cols_BHQN: jax.Array, mask_BN: jax.Array) -> jax.Array:
    """Eq. 3 as printed: the sum over heads, queries and the concept's tokens, [B] float32 >= 0."""
    return _masked(cols_BHQN, mask_BN).sum((1, 2, 3))


def attention_norm(cols_BHQN: jax.Array, mask_BN: jax.Array) -> jax.Array:
    """The authors' released form: norms over heads, summed over queries and tokens.

    The square root is guarded: at 0 (padding, or attention that has vanished) the plain one has
    a gradient of NaN.

    Returns:
      [B] float32 >= 0.
    """
    squares_BQN = jnp.square(_masked(cols_BHQN, mask_BN)).sum(1)
    positive = squares_BQN > 0
    norms_BQN = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares_BQN, 1.0)), 0.0)
    return norms_BQN.sum((1, 2))


def column_feature(cols_BHQN: jax.Array, mask_BN: jax.Array, *, image_tokens: int) -> jax.Array:
    """What L_rsc compares: where in the image a concept is looked for.

    Text queries are left out, since rows of text do not align between prompts.

    Args:
      cols_BHQN: softmax columns, text queries first.
      mask_BN: True at real concept tokens.
      image_tokens: number of image queries, the last ones.
    Returns:
      [B, image_tokens] float32: mean over heads and the concept's tokens.
    """
    image_BHQN = _masked(cols_BHQN, mask_BN)[:, :, -image_tokens:]
    tokens_B = mask_BN.sum(-1).astype(jnp.float32)
    return image_BHQN.mean(1).sum(-1) / tokens_B[:, None]


def rsc_intent(un_BQ: jax.Array, syn_BQ: jax.Array, ir_BWQ: jax.Array, *, tau: float) -> jax.Array:
    """Reverse self-contrastive loss (Eq. 5) with the sign that its text asks for.

    Small when the concept's feature lies nearer to those of irrelevant words than to the
    synonym's. Similarity is the cosine over tau: plain dot products of softmax columns are
    almost 0, and a temperature would do nothing to them.

    Args:
      un_BQ, syn_BQ, ir_BWQ: features of the concept, its synonym, W irrelevant words; gradient
        flows through the concept's only.
      tau: temperature > 0; the paper's is 0.07.
    Returns:
      [B] float32 >= 0.
    """
    to_syn_B = _cosine(un_BQ, jax.lax.stop_gradient(syn_BQ)) / tau
    to_ir_BW = _cosine(un_BQ[:, None], jax.lax.stop_gradient(ir_BWQ)) / tau
    to_ir_B = jax.nn.logsumexp(to_ir_BW, axis=1)
    return jnp.logaddexp(to_syn_B, to_ir_B) - to_ir_B


def rsc_printed(un_BQ: jax.Array, syn_BQ: jax.Array, ir_BWQ: jax.Array, *, tau: float) -> jax.Array:
    """Eq. 5 as printed: minimised, it pulls the concept *towards* its synonym.

    The sum over K + 1 terms is read as the synonym and K = W irrelevant words, the similarity is
    Eq. 10's plain dot product over tau. Arguments and result as for `rsc_intent`.
    """
    others = jax.lax.stop_gradient(jnp.concatenate([syn_BQ[:, None], ir_BWQ], axis=1))
    similarity = (un_BQ[:, None] * others).sum(-1) / tau
    return jax.nn.logsumexp(similarity, axis=1) - similarity[:, 0]


def rsc_release(un_BQ: jax.Array, syn_BQ: jax.Array, ir_BWQ: jax.Array, *, tau: float) -> jax.Array:
    """The authors' released form: the synonym is the anchor of the contrast.

    Pushes the concept away from its synonym; irrelevant words only set the scale. Arguments as
    for `rsc_intent`; the result is <= 0.
    """
    syn = jax.lax.stop_gradient(syn_BQ)
    to_un_B = _cosine(syn, un_BQ) / tau
    to_ir_BW = _cosine(syn[:, None], jax.lax.stop_gradient(ir_BWQ)) / tau
    return to_un_B - jnp.logaddexp(to_un_B, jax.nn.logsumexp(to_ir_BW, axis=1))


def _masked(cols_BHQN: jax.Array, mask_BN: jax.Array) -> jax.Array:
    return jnp.where(mask_BN[:, None, None, :], cols_BHQN.astype(jnp.float32), 0.0)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    # The floor keeps the gradient finite where attention has vanished altogether.
    squares = jnp.maximum(jnp.square(a).sum(-1) * jnp.square(b).sum(-1), 1e-20)
    return (a * b).sum(-1) / jnp.sqrt(squares)
