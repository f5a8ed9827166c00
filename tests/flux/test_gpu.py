"""Attention on a GPU is the softmax written out in float32: outputs, columns, gradients.

    JAX_PLATFORMS=cuda,cpu XLA_FLAGS= python -m pytest -n 0 tests/flux/test_gpu.py

`cudnn` needs a Hopper GPU where heads and columns together are wider than 128.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from test_attention_kernels import assert_close, differentiated
from toy_steps import BASE, OPTIMISER, Inputs, settings

from ea_jax.flux.attention import joint_attention
from ea_jax.flux.columns import Columns
from ea_jax.methods.erase_anything.steps import lower_step

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu",
    reason=f"needs a GPU, and JAX has {jax.default_backend()}; see this file's first lines",
)

# bfloat16 has 8 bits; the same bar as the kernels' stand-ins have on a CPU.
HALF = 2e-2
BOTH, COLUMNS_ALONE, PADDING_ALONE = (1, 1, 1), (0, 1, 0), (0, 0, 1)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of one attention: rows, tokens (the first `text` are text), heads, columns wanted."""

    rows: int
    text: int
    image: int
    heads: int
    width: int
    columns: int

    @property
    def length(self) -> int:
        return self.text + self.image


SHAPES = {
    "FLUX at 512 px": Shape(1, 512, 1024, 24, 128, 8),
    "FLUX at 1024 px": Shape(1, 512, 4096, 24, 128, 8),
    "flux-tiny": Shape(4, 32, 16, 4, 32, 8),
    "columns that fill no lanes": Shape(2, 78, 54, 3, 64, 3),
    "a short one, one column": Shape(3, 6, 8, 2, 16, 1),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def qkv(shape: Shape) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    size = (shape.rows, shape.length, shape.heads, shape.width)
    q, k, v = (jax.random.normal(key, size) for key in keys)
    return tuple(x.astype(jnp.bfloat16) for x in (2 * q, k, v))


def columns_of(shape: Shape) -> Columns:
    """Text positions from the last one down; each row after the first has one column fewer."""
    real_B1 = jnp.maximum(1, shape.columns - jnp.arange(shape.rows))[:, None]
    mask_BN = jnp.arange(shape.columns)[None] < real_B1
    idx_BN = shape.text - 1 - 2 * jnp.arange(shape.columns)[None]
    return Columns(jnp.where(mask_BN, idx_BN, 0), mask_BN)


def padded(shape: Shape) -> Columns:
    """Columns of which the last is padding in every row."""
    columns = columns_of(shape)
    return columns.replace(mask_BN=columns.mask_BN.at[:, -1].set(False))


@functools.cache
def written_out(shape: Shape, weights: tuple[int, ...]):
    """Gradients and (output, columns) of the same numbers in float32; no TF32 in the products."""
    rounded = [x.astype(jnp.float32) for x in qkv(shape)]
    with jax.default_matmul_precision("highest"):
        return differentiated(*rounded, columns_of(shape), jnp.array(weights, float), "full")


@shapes
def test_cudnn_is_the_written_out_softmax(shape):
    found = differentiated(*qkv(shape), columns_of(shape), jnp.array(BOTH, float), "cudnn")
    out, cols = found[1]
    assert (out.dtype, cols.dtype) == (jnp.bfloat16, jnp.float32)
    assert cols.shape == (shape.rows, shape.heads, shape.length, shape.columns)
    assert_close(found, written_out(shape, BOTH), HALF)


@shapes
def test_cudnns_gradient_of_columns_alone_flows_through_the_denominator(shape):
    weights = jnp.array(COLUMNS_ALONE, float)
    (dq, dk, dv), _ = differentiated(*qkv(shape), columns_of(shape), weights, "cudnn")
    expected_dq, expected_dk, _ = written_out(shape, COLUMNS_ALONE)[0]
    assert_close((dq, dk), (expected_dq, expected_dk), HALF)
    assert abs(expected_dq).max() > 0
    # The image's keys are in the denominator only.
    assert abs(dk[:, shape.text :]).max() > 0
    assert not dv.any()


@shapes
def test_cudnns_padded_columns_are_exactly_zero_and_carry_no_gradient(shape):
    weights = jnp.array(PADDING_ALONE, float)
    grads, (_, cols) = differentiated(*qkv(shape), padded(shape), weights, "cudnn")
    assert not cols[..., -1].any()
    for grad in grads:
        assert not grad.any()


@shapes
def test_cudnn_without_columns_has_the_same_output(shape):
    q, k, v = qkv(shape)
    out, cols = jax.jit(functools.partial(joint_attention, backend="cudnn"))(q, k, v)
    assert cols is None
    assert_close(out, written_out(shape, BOTH)[1][0], HALF)


@pytest.mark.parametrize("weights", [BOTH, COLUMNS_ALONE], ids=["both", "columns alone"])
@pytest.mark.parametrize("name", ["FLUX at 512 px", "flux-tiny"])
def test_chunked_in_float32_is_the_written_out_softmax(name, weights):
    shape = SHAPES[name]
    rounded = [x.astype(jnp.float32) for x in qkv(shape)]
    with jax.default_matmul_precision("highest"):
        found = differentiated(*rounded, columns_of(shape), jnp.array(weights, float), "chunked")
    assert_close(found, written_out(shape, weights), 1e-4)


def test_a_lower_step_with_cudnn_has_the_terms_of_chunked():
    inputs = Inputs()
    state, batch = inputs.state(), inputs.lower()
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BASE)

    def terms(attention: str) -> dict[str, float]:
        s = settings(esd=1.0, attn=1.0)
        s = dataclasses.replace(s, attention=attention, remat="block")
        step = functools.partial(lower_step, settings=s, optimiser=OPTIMISER)
        return jax.tree.map(float, jax.jit(step)(state, base, batch)[1])

    found, expected = terms("cudnn"), terms("chunked")
    assert expected["grad_norm"] > 0
    assert found == pytest.approx(expected, rel=0.05)
