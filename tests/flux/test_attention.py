"""Attention columns: exact, differentiable through the denominator, the same in every backend."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux import attention
from ea_jax.flux.attention import joint_attention
from ea_jax.flux.columns import Columns
from ea_jax.runtime import compiler

B, S, H, E = 2, 23, 3, 8
COLUMNS = Columns(jnp.array([[1, 4, 0], [7, 0, 0]]), jnp.array([[1, 1, 0], [1, 0, 0]], bool))


def qkv(seed: int = 0) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(seed), 3)
    return tuple(2 * jax.random.normal(key, (B, S, H, E)) for key in keys)


def written_out(q, k, v):
    logits = np.einsum("bqhe,bkhe->bhqk", q, k).astype(np.float64) / np.sqrt(E)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhe->bqhe", weights, v), weights


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_CHUNK", 7)  # 23 queries: four chunks, one padded


@pytest.mark.parametrize("backend", ["full", "chunked"])
def test_columns_are_those_of_the_softmax(backend, small_chunks):
    q, k, v = qkv()
    out, cols = joint_attention(q, k, v, COLUMNS, backend=backend)
    expected, weights = written_out(*map(np.asarray, (q, k, v)))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(cols[0, :, :, :2], weights[0][:, :, [1, 4]], atol=1e-5)
    np.testing.assert_allclose(cols[1, :, :, 0], weights[1, :, :, 7], atol=1e-5)


@pytest.mark.parametrize("backend", ["full", "chunked"])
def test_padded_columns_are_exactly_zero_and_carry_no_gradient(backend, small_chunks):
    q, k, v = qkv()
    padding = ~COLUMNS.mask_BN[:, None, None, :]

    def padded_sum(q, k):
        cols = joint_attention(q, k, v, COLUMNS, backend=backend)[1]
        return jnp.where(padding, cols, 0).sum()

    assert padded_sum(q, k) == 0
    for grad in jax.grad(padded_sum, (0, 1))(q, k):
        assert not grad.any()


def test_chunked_has_the_outputs_and_gradients_of_full(small_chunks):
    q, k, v = qkv()

    def loss(q, k, v, backend):
        out, cols = joint_attention(q, k, v, COLUMNS, backend=backend)
        return jnp.sin(out).sum() + (cols**2).sum()

    full = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, "full")
    chunked = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, "chunked")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), full, chunked)


@pytest.mark.parametrize("backend", ["full", "chunked"])
def test_fewer_queries_than_keys_have_their_rows_of_the_map(backend, small_chunks):
    q, k, v = qkv()
    out, cols = joint_attention(q, k, v, COLUMNS, backend=backend)
    some_out, some_cols = joint_attention(q[:, 5:], k, v, COLUMNS, backend=backend)
    np.testing.assert_allclose(some_out, out[:, 5:], atol=1e-6)
    np.testing.assert_allclose(some_cols, cols[:, :, 5:], atol=1e-6)


@pytest.mark.parametrize("backend", ["full", "chunked"])
def test_gradient_of_columns_alone_matches_finite_differences(backend, small_chunks):
    q, k, v = qkv()

    def loss(q, k):
        return joint_attention(q, k, v, COLUMNS, backend=backend)[1].sum()

    grads = jax.grad(loss, (0, 1))(q, k)
    direction = jax.random.normal(jax.random.key(9), k.shape)
    # Along keys outside idx the columns change only through the denominator.
    outside = direction.at[0, jnp.array([1, 4])].set(0).at[1, 7].set(0)
    for step in (direction, outside):
        eps = 1e-2
        slope = (loss(q, k + eps * step) - loss(q, k - eps * step)) / (2 * eps)
        exact = (grads[1] * step).sum()
        assert abs(exact) > 0.1
        np.testing.assert_allclose(exact, slope, rtol=2e-2)
    eps = 1e-2
    slope = (loss(q + eps * direction, k) - loss(q - eps * direction, k)) / (2 * eps)
    np.testing.assert_allclose((grads[0] * direction).sum(), slope, rtol=2e-2)


def test_columns_of_half_precision_inputs_are_float32():
    q, k, v = (x.astype(jnp.bfloat16) for x in qkv())
    out, cols = joint_attention(q, k, v, COLUMNS)
    assert out.dtype == jnp.bfloat16
    assert cols.dtype == jnp.float32
    exact = written_out(*(np.asarray(x, np.float32) for x in (q, k, v)))[1]
    np.testing.assert_allclose(cols[1, :, :, 0], exact[1, :, :, 7], rtol=1e-4)


@pytest.mark.xla_text
def test_no_map_is_turned_on_a_cpu():
    def loss(q, k, v):
        return jnp.sin(joint_attention(q, k, v, backend="full")[0]).sum()

    side = 160
    shape = jax.ShapeDtypeStruct((1, side, 3, 16), jnp.float32)  # with more rows XLA turned none
    gradient = compiler.jit(jax.grad(loss, (0, 1, 2)))
    program = gradient.lower(shape, shape, shape).compile().as_text()
    assert f"{side},{side}]" in program
    assert not re.search(rf",{side},{side}]\S* (copy|transpose)\(", program)


def test_unknown_backend_names_the_nearest():
    with pytest.raises(ValueError, match="'chunkd' is unknown; did you mean 'chunked'"):
        joint_attention(*qkv(), backend="chunkd")
