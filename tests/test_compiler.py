"""What XLA is told beyond its defaults."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from ea_jax.runtime import compiler

ROWS = jax.ShapeDtypeStruct((512, 512), jnp.float32)


def hlo(jit):
    return jit(lambda a, b: (a @ b).sum(-1)).lower(ROWS, ROWS).compile().as_text()


def test_on_a_cpu_nothing_is_fused_for_ynn():
    if "%ynn_fusion" not in hlo(jax.jit):
        pytest.skip("this XLA has no YNN fusions by itself")
    assert "%ynn_fusion" not in hlo(compiler.jit)
