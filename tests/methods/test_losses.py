"""The losses on numbers that can be checked by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.methods import losses

MASK = jnp.array([[True, True, False]])


def test_erasing_target_mirrors_the_concept_at_the_anchor():
    anchor, concept = jnp.full((1, 2, 3), 1.0), jnp.full((1, 2, 3), 3.0)
    np.testing.assert_array_equal(losses.erasing_target(anchor, concept, eta=1.0), -1.0)
    np.testing.assert_array_equal(losses.erasing_target(anchor, concept, eta=0.0), 1.0)


def test_erasing_target_carries_no_gradient():
    grad = jax.grad(lambda v: losses.erasing_target(v, 2 * v, eta=1.0).sum())(jnp.ones((1, 2, 3)))
    assert not grad.any()


def test_velocity_error_is_a_mean_taken_in_float32():
    v = jnp.full((2, 1280, 64), 0.09, jnp.bfloat16)
    error = losses.velocity_error(v, jnp.zeros_like(v))
    assert error.dtype == jnp.float32
    np.testing.assert_allclose(error, float(v[0, 0, 0]) ** 2, rtol=1e-5)


def test_attention_mass_is_the_share_of_a_uniform_softmax():
    uniform = jnp.full((1, 4, 10, 3), 1 / 10)
    assert losses.attention_mass(uniform, MASK)[0] == pytest.approx(0.2)
    longer = jnp.full((1, 4, 40, 3), 1 / 10)  # more queries, same share
    assert losses.attention_mass(longer, MASK)[0] == pytest.approx(0.2)


def test_attention_sum_adds_heads_queries_and_tokens():
    assert losses.attention_sum(jnp.full((1, 4, 10, 3), 0.1), MASK)[0] == pytest.approx(8.0)


def test_attention_norm_is_the_norm_over_heads():
    cols = jnp.full((1, 4, 10, 3), 0.1)
    assert losses.attention_norm(cols, MASK)[0] == pytest.approx(10 * 2 * 0.2)


def test_attention_norm_has_a_finite_gradient_at_zero():
    grad = jax.grad(lambda c: losses.attention_norm(c, MASK).sum())(jnp.zeros((1, 4, 10, 3)))
    assert jnp.isfinite(grad).all()


def test_column_feature_sees_image_queries_and_real_tokens_only():
    cols = jnp.zeros((1, 2, 6, 3)).at[:, :, :2].set(9.0).at[..., 2].set(9.0)
    cols = cols.at[0, 0, 4, 0].set(0.8).at[0, 1, 4, 1].set(0.4)
    feature = losses.column_feature(cols, MASK, image_tokens=4)
    np.testing.assert_allclose(feature, [[0, 0, (0.8 + 0.4) / 4, 0]], atol=1e-7)


UN = jnp.array([[1.0, 0.0]])
LIKE = jnp.array([[2.0, 0.0]])  # cosine 1 with UN
UNLIKE = jnp.array([[0.0, 3.0]])  # cosine 0


def test_rsc_intent_is_small_only_near_irrelevant_words():
    near_irrelevant = losses.rsc_intent(UN, UNLIKE, LIKE[:, None], tau=1.0)[0]
    near_synonym = losses.rsc_intent(UN, LIKE, UNLIKE[:, None], tau=1.0)[0]
    assert near_irrelevant == pytest.approx(np.log1p(np.exp(-1.0)))
    assert near_synonym == pytest.approx(np.log1p(np.exp(1.0)))


def test_rsc_printed_has_the_opposite_sign():
    near_irrelevant = losses.rsc_printed(UN, UNLIKE, LIKE[:, None], tau=1.0)[0]
    near_synonym = losses.rsc_printed(UN, LIKE, UNLIKE[:, None], tau=1.0)[0]
    assert near_irrelevant == pytest.approx(np.log1p(np.exp(2.0)))
    assert near_synonym == pytest.approx(np.log1p(np.exp(-2.0)))


def test_rsc_release_contrasts_around_the_synonym():
    # synonym near the concept, irrelevant word far: 1 - log(e^1 + e^0)
    value = losses.rsc_release(UN, LIKE, UNLIKE[:, None], tau=1.0)[0]
    assert value == pytest.approx(1 - np.log(np.e + 1))


@pytest.mark.parametrize("form", [losses.rsc_intent, losses.rsc_printed, losses.rsc_release])
def test_rsc_moves_only_the_concepts_feature(form):
    un, syn, ir = jnp.array([[1.0, 0.5]]), jnp.array([[0.3, 1.0]]), jnp.array([[[0.9, 0.1]]])
    grads = jax.grad(lambda *x: form(*x, tau=0.07).sum(), (0, 1, 2))(un, syn, ir)
    assert grads[0].any()
    assert not grads[1].any()
    assert not grads[2].any()


def test_rsc_of_a_vanished_feature_is_finite():
    value, grad = jax.value_and_grad(
        lambda un: losses.rsc_intent(un, LIKE, UNLIKE[:, None], tau=0.07).sum()
    )(jnp.zeros((1, 2)))
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad).all()
