"""Kernels for accelerators give the outputs, columns and gradients of the softmax written out.

No accelerator is needed: the TPU's kernel is interpreted, and cuDNN's stands as XLA's attention.
"""

from __future__ import annotations

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux import cudnn, splash
from ea_jax.flux.attention import joint_attention
from ea_jax.flux.columns import Columns
from ea_jax.runtime.mesh import make_mesh, put_rows

S, H, E = 300, 2, 128  # in tiles of 128 the last 84 keys are padding
COLUMNS = Columns(
    jnp.array([[1, 299, 0], [7, 0, 0]]), jnp.array([[1, 1, 0], [1, 0, 0]], dtype=bool)
)
KERNELS = ["splash", "cudnn"]


@pytest.fixture
def kernels(monkeypatch):
    """The backends as they are, but for what needs their device."""
    monkeypatch.setattr(splash, "TILES", (128,))
    interpreted = functools.partial(splash.attention_and_lse, interpret=True)
    monkeypatch.setattr(splash, "attention_and_lse", interpreted)
    by_xla = functools.partial(cudnn.attention_and_columns, implementation="xla")
    monkeypatch.setattr(cudnn, "attention_and_columns", by_xla)


def qkv(rows: int = 2, length: int = S, dtype: str = "float32") -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (rows, length, H, E)) for key in keys)
    return tuple(x.astype(dtype) for x in (2 * q, k, v))


def loss(q, k, v, columns, weights, backend):
    """Parts of it hang on the output, the columns, and the columns at padding."""
    out, cols = joint_attention(q, k, v, columns, backend=backend)
    real = columns.mask_BN[:, None, None]
    parts = [
        jnp.sin(3 * out.astype(jnp.float32)).sum(),
        100 * jnp.where(real, cols**2, 0).sum(),
        jnp.where(real, 0, cols).sum(),
    ]
    return jnp.dot(weights, jnp.stack(parts)), (out, cols)


@functools.partial(jax.jit, static_argnames="backend")
def differentiated(q, k, v, columns, weights, backend):
    """Gradients with respect to q, k, v, and (output, columns)."""
    return jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v, columns, weights, backend)


def run(backend: str, weights: list[float], rows: int = 2, **options):
    columns = jax.tree.map(lambda leaf: leaf[:rows], COLUMNS)
    return differentiated(*qkv(rows, **options), columns, jnp.array(weights, float), backend)


def assert_close(found, expected, tolerance: float):
    """Each array to a share of its own largest number."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * abs(b).max())


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("length", [S, 256])
def test_output_columns_and_gradients_are_those_of_full(kernels, backend, length):
    columns = Columns(COLUMNS.idx_BN.at[0, 1].set(length - 1), COLUMNS.mask_BN)
    given = (*qkv(length=length), columns, jnp.ones(3))
    assert_close(differentiated(*given, backend), differentiated(*given, "full"), 1e-5)


@pytest.mark.parametrize("backend", KERNELS)
def test_fewer_queries_than_keys_have_their_rows_of_the_map(kernels, backend):
    q, k, v = qkv()
    given = (q[:, 45:], k, v, COLUMNS, jnp.ones(3))
    assert_close(differentiated(*given, backend), differentiated(*given, "full"), 1e-5)


@pytest.mark.parametrize("backend", KERNELS)
def test_gradient_of_columns_alone_flows_through_the_denominator(kernels, backend):
    (dq, dk, dv), _ = run(backend, [0, 1, 0])
    assert_close((dq, dk, dv), run("full", [0, 1, 0])[0], 1e-5)
    # Keys outside idx are in the denominator only.
    assert abs(dq).max() > 0.1
    assert abs(dk[0, 2:299]).max() > 0.01
    assert not dv.any()


@pytest.mark.parametrize("backend", KERNELS)
def test_padded_columns_are_exactly_zero_and_carry_no_gradient(kernels, backend):
    grads, (_, cols) = run(backend, [0, 0, 1])
    assert not cols[0, :, :, 2].any()
    assert not cols[1, :, :, 1:].any()
    for grad in grads:
        assert not grad.any()


@pytest.mark.parametrize("backend", KERNELS)
def test_half_precision_is_near_float32(kernels, backend):
    found = run(backend, [1, 1, 1], dtype="bfloat16")
    out, cols = found[1]
    assert (out.dtype, cols.dtype) == (jnp.bfloat16, jnp.float32)
    rounded = [x.astype(jnp.float32) for x in qkv(dtype="bfloat16")]
    assert_close(found, differentiated(*rounded, COLUMNS, jnp.ones(3), "full"), 2e-2)


@pytest.mark.parametrize("backend", KERNELS)
def test_without_columns_there_is_only_the_output(kernels, backend):
    q, k, v = qkv(1, length=256)
    out, cols = jax.jit(functools.partial(joint_attention, backend=backend))(q, k, v)
    assert cols is None
    assert_close(out, joint_attention(q, k, v, backend="full")[0], 1e-5)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("rows", [2, 1])  # one row doesn't divide, and stays whole
def test_on_a_mesh_it_is_full_on_one_device(kernels, backend, rows):
    mesh = make_mesh({"data": 2, "tensor": 2})
    given = (*qkv(rows), jax.tree.map(lambda leaf: leaf[:rows], COLUMNS))
    with jax.set_mesh(mesh):
        given = [put_rows(mesh, leaf) for leaf in given]
        found = differentiated(*given, jnp.ones(3), backend)
    assert_close(found, run("full", [1, 1, 1], rows), 1e-5)


def test_splash_gives_each_device_its_rows_and_heads(kernels):
    def calls(rows):
        given = (*qkv(rows), COLUMNS, jnp.ones(3), "splash")
        return str(jax.make_jaxpr(differentiated, static_argnums=5)(*given))

    with jax.set_mesh(make_mesh({"data": 2, "tensor": 2})):
        text = calls(2)
    assert text.count("shard_map[") == 2  # forward, backward
    assert f"f32[1,1,384,{E}]" in text
    assert "shard_map[" not in calls(2)


def test_splash_takes_the_tile_that_pads_least():
    # FLUX.1 dev and schnell at 1024 and 512 px.
    assert [splash._tile(length) for length in (4608, 1536, 4352, 1280)] == [512, 512, 256, 256]
    assert splash._tile(300) == 384


def test_splash_off_a_tpu_says_what_to_set():
    with pytest.raises(ValueError, match=r"TPUs, not on cpu; set model\.attention=chunked"):
        joint_attention(*qkv(1), backend="splash")


def test_cudnn_in_float32_says_what_to_set():
    wanted = r"not float32; set model\.dtype=bfloat16, or model\.attention=chunked"
    with pytest.raises(ValueError, match=wanted):
        joint_attention(*qkv(1), backend="cudnn")


def test_cudnn_off_a_gpu_says_what_to_set():
    with pytest.raises(ValueError, match=r"the process has cpu; set model\.attention=chunked"):
        joint_attention(*qkv(1, dtype="bfloat16"), backend="cudnn")


@pytest.mark.parametrize(("capability", "fits"), [("9.0", True), ("8.0", False), ("10.0", False)])
def test_cudnn_takes_wide_heads_on_hopper_alone(monkeypatch, capability, fits):
    class Gpu:
        compute_capability = capability

    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu()])
    cudnn._check_device("gpu", 128)
    if fits:
        cudnn._check_device("gpu", 136)
        return
    with pytest.raises(ValueError, match=rf"heads of 136 .* this one is {capability}; set"):
        cudnn._check_device("gpu", 136)


def test_cudnn_refuses_an_odd_number_of_tokens():
    with pytest.raises(ValueError, match=r"even number of tokens .* not 1537 .*text_length"):
        cudnn._check_length(1537)
    cudnn._check_length(1536)


def test_other_backends_leave_pallas_alone():
    program = "import sys, ea_jax.flux.layers; print('jax.experimental.pallas' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout.split() == [b"False"]
