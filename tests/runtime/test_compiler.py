"""What XLA is told beyond its defaults."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ea_jax.flux.layers import normalise
from ea_jax.flux.stack import run_blocks
from ea_jax.runtime import compiler
from ea_jax.runtime.mesh import make_mesh, sharding

ROWS = jax.ShapeDtypeStruct((512, 512), jnp.float32)


def product(a, b):
    return (a @ b).sum(-1)


def softmax(a, b):
    return jax.nn.softmax(a @ b)


def hlo(jit, function):
    return jit(function).lower(ROWS, ROWS).compile().as_text()


@pytest.mark.xla_text
def test_on_a_cpu_nothing_is_fused_for_ynn():
    if "%ynn_fusion" not in hlo(jax.jit, product):
        pytest.skip("this XLA has no YNN fusions by itself")
    assert "%ynn_fusion" not in hlo(compiler.jit, product)


@pytest.mark.xla_text
def test_on_a_cpu_no_sum_goes_through_windows():
    by_itself = functools.partial(
        jax.jit, compiler_options={"xla_cpu_experimental_ynn_fusion_type": ""}
    )
    if "reduce-window" not in hlo(by_itself, softmax):
        pytest.skip("this XLA sums without windows by itself")
    assert "reduce-window" not in hlo(compiler.jit, softmax)


@pytest.mark.xla_text
def test_barriers_hold_on_a_cpu():
    def walled(a, b):
        return jax.lax.optimization_barrier(a + b) * 2

    assert "opt-barrier(" in hlo(compiler.jit, walled)
    a, b = jnp.ones((2, 3)), jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(compiler.jit(walled)(a, b), 2 * (a + b))


@pytest.mark.xla_text
def test_a_cotangent_is_not_computed_anew_for_each_block_before_it():
    """Else a fusion reads what all the blocks behind it left: more, the more blocks there are."""

    def widest_fusion(blocks):
        def loss(x, weights):
            body = lambda x, kernel, _: (x + normalise(x) @ kernel, None)  # noqa: E731
            return run_blocks(body, x, weights, None, remat="none")[0].sum()

        kernels = (jax.ShapeDtypeStruct((512, 512), jnp.float32),) * blocks
        program = compiler.jit(jax.grad(loss)).lower(ROWS, kernels).compile().as_text()
        return max(line.count("%") for line in program.splitlines() if " fusion(" in line)

    assert widest_fusion(8) == widest_fusion(4)


@pytest.fixture
def programs():
    """Puts JAX's folder of programs back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_cache_unless_jax_has_a_folder(programs, tmp_path):
    compiler.keep_programs(None)
    assert jax.config.jax_compilation_cache_dir is None
    compiler.keep_programs(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "programs")
    compiler.keep_programs("elsewhere")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "programs")


def test_what_compiles_ahead_holds_no_array_and_runs_where_its_arguments_lie():
    mesh = make_mesh({"data": 2})
    going_on = threading.Event()

    def product(rows, kernel):
        going_on.wait(60)
        return rows @ kernel

    split = jax.device_put(np.ones((4, 3), np.float32), sharding(mesh, ("batch", None)))
    free = jnp.ones((3, 2))
    held = [weakref.ref(split), weakref.ref(free)]
    ahead = compiler.Ahead({"product": (compiler.jit(product, mesh), (split, free))}, mesh)
    again = jax.tree.map(np.array, (split, free))
    del split, free
    gc.collect()
    assert [ref() for ref in held] == [None, None]
    going_on.set()
    rows = jax.device_put(again[0], sharding(mesh, ("batch", None)))
    with jax.set_mesh(mesh):
        made = ahead["product"](rows, again[1])
    np.testing.assert_array_equal(made, np.full((4, 2), 3))
    assert made.sharding.shard_shape(made.shape) == (2, 2)
