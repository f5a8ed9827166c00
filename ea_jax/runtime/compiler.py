"""`jax.jit` with what XLA is told beyond its defaults."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh


def jit(function: Callable[..., Any], mesh: Mesh | None = None, **options: Any) -> Any:
    """`jax.jit` for the devices of a mesh, which need not be here; without one, for JAX's own.

    Args:
      function: a program of its own: inside another, XLA can't be told anything.
      options: of `jax.jit`.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return jax.jit(function, compiler_options=_options(platform), **options)


@functools.cache
def _options(platform: str) -> dict[str, str]:
    if platform != "cpu":
        return {}
    # No fusions of the YNN library: Eigen multiplies matrices of a few hundred rows faster, and
    # XLA's own reductions are no slower. A pair of steps of flux-tiny takes a tenth less time.
    found = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(jnp.negative, compiler_options=found).lower(jnp.float32(0)).compile()
    except jax.errors.JaxRuntimeError:
        return {}  # an XLA without that option
    return found
