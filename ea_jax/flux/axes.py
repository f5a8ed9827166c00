"""Logical axes of FLUX's weights: what a mesh may split; `ea_jax.runtime.mesh` says how.

Of every kernel one side is the model's width (`fsdp`), the other heads or hidden units
(`tensor`), so that each device of a tensor mesh holds its heads and its part of each MLP, and
projections back to the model's width are summed across devices once.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from ea_jax.runtime.mesh import constrain, divided_spec, sharding

Axes = tuple[str | None, ...]

# Layer -> logical axes of its kernel, [in, out]. Text and time have widths of their own.
KERNELS: dict[str, Axes] = {
    "x_embedder": ("channels", "model"),
    "context_embedder": ("text_width", "model"),
    "linear_1": ("text_width", "mlp"),
    "linear_2": ("mlp", "model"),
    # AdaLN: a quarter of all parameters.
    "linear": ("model", "mlp"),
    "up": ("model", "mlp"),
    "down": ("mlp", "model"),
    "proj_mlp": ("model", "mlp"),
    **dict.fromkeys(("to_q", "to_k", "to_v"), ("model", "heads")),
    **dict.fromkeys(("add_q_proj", "add_k_proj", "add_v_proj"), ("model", "heads")),
    **dict.fromkeys(("to_out", "to_add_out"), ("heads", "model")),
}
# Two layers have this name: a single block's, after attention and MLP, and the last one.
_BLOCKS_PROJ_OUT: Axes = ("mlp", "model")
_LAST_PROJ_OUT: Axes = ("model", "channels")
# As wide as one head, which no axis splits.
_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


def logical_axes(weights: Any) -> Any:
    """The tree with each leaf replaced by its logical axes, a tuple as long as its shape.

    Args:
      weights: transformer weights or their ShapeDtypeStructs.
    Raises:
      ValueError: a leaf that the table doesn't know.
    """
    return jax.tree.map_with_path(_axes_of, weights)


def shardings(mesh: Mesh, weights: Any) -> Any:
    """Where each leaf of the transformer lives on a mesh; same tree as the weights.

    Raises:
      ValueError: an axis of the weights that the mesh doesn't divide.
    """
    return jax.tree.map_with_path(
        lambda path, leaf: sharding(mesh, _axes_of(path, leaf), leaf.shape), weights
    )


def gathered(weights: Any, stack: str | None = None) -> Any:
    """Weights about to be used: the slices that `fsdp` made of them brought together.

    Without it, a compiler would rather split each product by the slices and gather the batch.

    Args:
      weights: some of the transformer's, inside a jitted step.
      stack: name of the stack, where they are one block of it.
    """

    def replicated(path: tuple, leaf: jax.Array) -> jax.Array:
        if stack is None:
            axes = _axes_of(path, leaf)
        else:
            place = jax.tree_util.DictKey(stack), jax.tree_util.SequenceKey(0)
            axes = _axes_of((*place, *path), leaf)
        return constrain(leaf, [None if axis == "model" else axis for axis in axes])

    return jax.tree.map_with_path(replicated, weights)


def is_gathering() -> bool:
    """Whether `gathered` moves anything on the mesh of `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape.get("fsdp", 1) > 1


def device_axes(rows: int, heads: int) -> tuple[str | tuple[str, ...] | None, ...] | None:
    """Mesh axes over which a kernel's rows and heads are split, one entry each.

    Args:
      rows, heads: sizes of the axes; one that the mesh doesn't divide stays whole, entry None.
    Returns:
      None without a mesh of `jax.set_mesh`, or with a mesh of one device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return None
    return tuple(divided_spec(mesh, ("batch", "heads"), (rows, heads)))


def _axes_of(path: tuple, leaf: Any) -> Axes:
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    layer, kind = names[-2:]
    in_block = names[0].endswith("transformer_blocks")
    stacked = ("layers",) if in_block and len(names) == len(path) else ()
    if layer == "proj_out":
        kernel = _BLOCKS_PROJ_OUT if in_block else _LAST_PROJ_OUT
    elif layer in _NORMS and kind == "scale":
        return (*stacked, None)
    elif layer in KERNELS:
        kernel = KERNELS[layer]
    else:
        raise ValueError(f"{'.'.join(names)} has no logical axes; add its layer to KERNELS")
    axes = (*stacked, *{"kernel": kernel, "kernel_T": kernel[::-1]}.get(kind, kernel[1:]))
    if len(axes) != len(leaf.shape):
        raise ValueError(f"{'.'.join(names)} has {len(leaf.shape)} axes, and {axes} are expected")
    return axes
