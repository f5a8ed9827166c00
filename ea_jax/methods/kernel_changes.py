"""Changes of whole kernels that a closed form finds: what they are made on, and what is left."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ea_jax import lora
from ea_jax.edits import Edit
from ea_jax.flux import axes
from ea_jax.flux.adapters import Module, kernel_shapes
from ea_jax.flux.transformer import Weights
from ea_jax.methods import closed_form
from ea_jax.methods.ready import Ready
from ea_jax.runtime.hosts import on_host
from ea_jax.runtime.mesh import constrain

_log = logging.getLogger(__name__)


def kernels(weights: Any, path: Module) -> list[np.ndarray]:
    """A layer's kernel [in, out] in each block, or the one that it has, float64."""
    found = [on_host(kernel) for kernel in _by_block(weights, path)]
    parts = found if found[0].ndim == 2 else list(found[0])
    return [kernel.astype(np.float64) for kernel in parts]


def multiplied(weights: Weights, paths: Sequence[Module], x_LDD: jax.Array) -> Weights:
    """Weights of which some layers of the blocks read (I + X) of their inputs; to be jitted."""
    added = {}
    for path in paths:
        found = _by_block(weights, path)
        kernel_LDO = found[0] if found[0].ndim == 3 else jnp.stack(found)
        delta_LDO = jnp.matmul(x_LDD, kernel_LDO.astype(jnp.float32), precision="highest")
        added[path] = constrain(delta_LDO, ("layers", *axes.KERNELS[path[-1]]))
    return lora.add(weights, added)


def _by_block(weights: Any, path: Module) -> list[Any]:
    """A layer's kernel in each of the unrolled blocks, or the one of all."""
    first, *rest = path
    stacks = weights[first] if isinstance(weights[first], tuple) else (weights[first],)
    return [functools.reduce(operator.getitem, (*rest, "kernel"), stack) for stack in stacks]


def edit_of(ready: Ready, changed: Mapping[Module, np.ndarray], *, rank: int) -> Edit:
    """The edit that a run leaves.

    Args:
      ready: of the run.
      changed: what is added to each layer's kernel, [(L,) in, out].
      rank: of adapters whose products are nearest to the changes; 0 keeps them whole.
    """
    if rank:
        low = {path: _low_rank(path, delta, rank) for path, delta in changed.items()}
        return ready.edit(traverse_util.unflatten_dict(low))
    whole = {path: {"kernel": delta} for path, delta in changed.items()}
    return ready.edit(deltas=traverse_util.unflatten_dict(whole))


def blank(template: Any, paths: Sequence[Module], *, rank: int) -> Any:
    """Adapters of the shapes of `edit_of`'s that change nothing; none for rank 0."""
    shapes, found = kernel_shapes(template), {}
    for path in paths if rank else ():
        *stack, wide_in, wide_out = shapes[path]
        least = min(rank, wide_in, wide_out)
        pair = {"A": jnp.zeros((*stack, wide_in, least)), "B": jnp.zeros((*stack, least, wide_out))}
        found[path] = pair
    return traverse_util.unflatten_dict(found)


def _low_rank(path: Module, delta: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """An adapter of a layer whose product is nearest to a change of its kernel."""
    pairs, worst = [], 0.0
    for delta_DO in delta if delta.ndim == 3 else delta[None]:
        wide = np.eye(len(delta_DO))
        A, B, error = closed_form.low_rank(wide, delta_DO.astype(np.float64), rank)
        pairs.append(closed_form.filled(A, B, min(rank, *delta_DO.shape)))
        worst = max(worst, error)
    _log.info("%s: rank %d, which is the whole change within %.2g", ".".join(path), rank, worst)
    stacked = {name: np.stack([pair[name] for pair in pairs]) for name in ("A", "B")}
    return stacked if delta.ndim == 3 else {name: leaf[0] for name, leaf in stacked.items()}
