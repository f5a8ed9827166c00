"""`jax.jit` with what XLA is told beyond its defaults; and where programs are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ea_jax.runtime.cache import is_writable
from ea_jax.runtime.mesh import platform


def jit(function: Callable[..., Any], mesh: Mesh | None = None, **options: Any) -> Any:
    """`jax.jit` for the devices of a mesh, which need not be here; without one, for JAX's own.

    Args:
      function: a program of its own: inside another, XLA can't be told anything.
      options: of `jax.jit`.
    """
    device = jax.default_backend() if mesh is None else platform(mesh)
    return jax.jit(function, compiler_options=_options(device), **options)


class Ahead:
    """Programs that compile side by side while something else runs.

        ahead = Ahead({"step": (program, arguments)}, mesh)
        ...                                   # a search, say, whose programs compile here
        ahead["step"](*arguments)             # waits for its compilation if need be

    On several hosts they compile when they are asked for, in the order of every other host.
    """

    def __init__(self, programs: Mapping[str, tuple[Any, Sequence[Any]]], mesh: Mesh) -> None:
        """Starts.

        Args:
          programs: name -> what `jit` returned, and arguments (arrays, or their shapes), whose
            shapes and shardings all calls will have.
          mesh: that is set around each call.
        """

        # No array of a batch is held for as long as a program compiles.
        asked = {
            name: (program, jax.tree.map(_shape, tuple(arguments)))
            for name, (program, arguments) in programs.items()
        }

        def compiled(program: Any, arguments: Sequence[Any]) -> Any:
            # Of this thread: the caller's own isn't known here.
            with jax.set_mesh(mesh):
                return program.lower(*arguments).compile()

        if jax.process_count() > 1:
            self._made = {
                name: functools.cache(functools.partial(compiled, *given))
                for name, given in asked.items()
            }
            return
        pool = ThreadPoolExecutor(max(1, len(programs)))
        self._made = {name: pool.submit(compiled, *given).result for name, given in asked.items()}
        pool.shutdown(wait=False)

    def __getitem__(self, name: str) -> Any:
        return self._made[name]()


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of an array; one that may lie anywhere says no place."""
    kind = jax.typeof(leaf)
    placed = isinstance(leaf, jax.ShapeDtypeStruct) or getattr(leaf, "committed", False)
    return jax.ShapeDtypeStruct(
        kind.shape,
        kind.dtype,
        weak_type=kind.weak_type,
        sharding=leaf.sharding if placed else None,
    )


def keep_programs(cache: str | Path | None) -> None:
    """Keeps compiled programs in a folder of a cache, so that a second start is quick.

    Where JAX was given a folder already (JAX_COMPILATION_CACHE_DIR), that one stays. A folder that
    can't be written is one warning here, where JAX would have one for each program.

    Args:
      cache: folder; None keeps nothing.
    """
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if cache is None or given is not None:
        return
    folder = Path(cache)
    if not (is_writable(folder) and is_writable(folder / "programs")):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    # The small ones too: there are hundreds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@functools.cache
def _options(device: str) -> dict[str, str]:
    if device != "cpu":
        return {}
    wanted = {
        # No fusions of the YNN library: Eigen multiplies matrices of a few hundred rows faster,
        # and XLA's own reductions are no slower. A pair of flux-tiny takes a tenth less time.
        "xla_cpu_experimental_ynn_fusion_type": "",
        # Nor reductions in windows of 32, which aren't vectorised: a twentieth less.
        # Optimization barriers stay, which the second pass takes out before anything is fused.
        "xla_disable_hlo_passes": "tree_reduction_rewriter,cse_barrier_expander",
    }
    return {name: value for name, value in wanted.items() if _is_known(name, value)}


def _is_known(name: str, value: str) -> bool:
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(jnp.float32(0)).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
