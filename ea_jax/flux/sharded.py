"""A pipeline on a mesh, of whose transformer each host keeps its own part alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ea_jax.flux import axes
from ea_jax.flux.attention import resolve_backend
from ea_jax.flux.latents import PATCH
from ea_jax.flux.pipeline import Pipeline
from ea_jax.flux.stack import unrolled
from ea_jax.runtime.mesh import local_part, platform, put, put_part, sharding


def on_mesh(
    mesh: Mesh, source: str | Path, *, dtype: Any = None, revision: str | None = None
) -> Pipeline:
    """A pipeline, no part loaded yet, whose transformer goes into its shards.

    The other parts are replicated.

    Raises:
      ValueError: as `Pipeline.load`, or an axis of the weights that the mesh doesn't divide.
    """
    replicated = sharding(mesh, ())
    # Of the transformer's leaves: sharding and whole shape.
    where: dict[tuple[str, ...], tuple[NamedSharding, tuple[int, ...]]] = {}

    def place(path: tuple[str, ...], array: np.ndarray) -> jax.Array:
        return put_part(array, *where[path]) if path in where else put(array, replicated)

    pipeline = Pipeline(
        source,
        dtype=dtype,
        put=place,
        wanted=lambda path, _: local_part(*where[path]) if path in where else (),
        revision=revision,
    )
    template = pipeline.template("transformer")
    shards = jax.tree.leaves(axes.shardings(mesh, template))
    for (path, leaf), shard in zip(jax.tree.leaves_with_path(template), shards, strict=True):
        where["transformer", *(entry.key for entry in path)] = shard, leaf.shape
    return pipeline


def attention_on(
    mesh: Mesh, pipeline: Pipeline, *, side: int, text_length: int, columns: int = 0
) -> str:
    """The fastest attention backend that a mesh's devices can paint with.

    Args:
      mesh: that the weights will lie on.
      pipeline: no part need be loaded.
      side: of the pictures, in pixels.
      text_length: T5 tokens.
      columns: of attention that are asked for, at most.
    Raises:
      ValueError: a side that the model can't paint.
    """
    rows, across, _ = pipeline.latent_shape(side, side)
    return resolve_backend(
        "auto",
        platform(mesh),
        dtype=pipeline.dtype,
        head=pipeline.transformer_config.attention_head_dim,
        columns=columns,
        tokens=text_length + rows * across // PATCH**2,
    )


def unrolled_for(mesh: Mesh, weights: Any) -> Any:
    """The transformer's weights with their blocks unrolled, see `stack.unrolled`.

    Where the mesh is of CPUs, kernels have their transposes beside them.
    """
    return unrolled(weights, transposes=platform(mesh) == "cpu")


def unrolled_on(mesh: Mesh, weights: Any) -> Any:
    """`unrolled_for` a mesh, and on it."""
    if platform(mesh) == "cpu" and jax.process_count() == 1:
        # Cut in NumPy: in JAX each shape has a program of its own.
        weights = jax.tree.map(np.asarray, weights)
    blocks = unrolled_for(mesh, weights)
    return jax.device_put(blocks, axes.shardings(mesh, blocks))
