"""LoRA: low-rank adapters as a plain tree beside the frozen weights.

    lora = init(key, weights, scope="dual_qk", rank=8)
    velocity(weights, config, ..., lora=scaled(lora, alpha / rank * strength))

computes x W + strength (alpha / r) (x A) B in every adapted layer. A scope is one of the groups of
`GROUPS`, or several joined by `+`: `dual_qk` is the paper's section 5.1 and the authors' code,
`dual_qk+image` its Appendix A.
"""

from __future__ import annotations

import difflib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.core import Tracer

from ea_jax.flux.adapters import (
    AdapterError,
    Module,
    check,
    count,
    kernel_shapes,
    names,
    padded,
    walk,
)
from ea_jax.runtime.streams import normal

__all__ = [
    "GROUPS",
    "AdapterError",
    "add",
    "check",
    "check_strength",
    "concatenate",
    "count",
    "delta",
    "init",
    "labels",
    "merge",
    "require_rank",
    "scaled",
    "targets",
]

Tree = dict[str, Any]
_LARGEST = float(np.finfo(np.float32).max)

_DUAL = ("transformer_blocks", "attn")
_SINGLE = ("single_transformer_blocks", "attn")

# Text and image have projections of their own in a dual block; in a single block they share them.
GROUPS: dict[str, tuple[Module, ...]] = {
    "dual_qk": ((*_DUAL, "add_q_proj"), (*_DUAL, "add_k_proj")),
    "dual_qkv": ((*_DUAL, "add_q_proj"), (*_DUAL, "add_k_proj"), (*_DUAL, "add_v_proj")),
    # `dual+single` reads as Q and K of both kinds of blocks.
    "dual": ((*_DUAL, "add_q_proj"), (*_DUAL, "add_k_proj")),
    "image": ((*_DUAL, "to_q"), (*_DUAL, "to_k")),
    "image_qkv": ((*_DUAL, "to_q"), (*_DUAL, "to_k"), (*_DUAL, "to_v")),
    "single": ((*_SINGLE, "to_q"), (*_SINGLE, "to_k")),
    "embed": (
        ("context_embedder",),
        ("time_text_embed", "text_embedder", "linear_1"),
        ("time_text_embed", "text_embedder", "linear_2"),
    ),
}


def targets(scope: str, weights: Any) -> list[Module]:
    """Paths of the layers that a scope adapts, sorted.

    Args:
      scope: a group of `GROUPS`, or several joined by `+`.
      weights: the model's weights, or their ShapeDtypeStructs.
    Raises:
      ValueError: an unknown scope.
      AdapterError: the model lacks a layer of the scope.
    """
    modules = _modules(scope)
    there = {path for path, layer in walk(weights) if "kernel" in layer}
    missing = [path for path in modules if path not in there]
    if missing:
        raise AdapterError(
            f"scope {scope!r} adapts {names(missing)}, which this model lacks; choose another scope"
        )
    return modules


def init(key: jax.Array, weights: Any, *, scope: str, rank: int) -> Tree:
    """Adapters that change nothing yet: A normal with std 1 / rank, B zero, both float32.

    A layer's A depends on the key, its path and its shape, not on the rest of the scope.

    Args:
      key: random key.
      weights: the model's weights, or their ShapeDtypeStructs.
      scope: which layers; see `targets`.
      rank: r.
    Returns:
      {A: [(L,) in, r], B: [(L,) r, out]} at each target's path.
    Raises:
      ValueError: a rank below 1 or above a layer's widths, or what `targets` raises.
    """
    require_rank(weights, scope=scope, rank=rank)
    kernels = kernel_shapes(weights)
    tree = {}
    for path in targets(scope, weights):
        *stack, width_in, width_out = kernels[path]
        own_key = jax.random.fold_in(key, zlib.crc32(".".join(path).encode()))
        A = normal(own_key, (*stack, width_in, rank)) / rank
        tree[path] = {"A": A, "B": jnp.zeros((*stack, rank, width_out), jnp.float32)}
    return traverse_util.unflatten_dict(tree)


def require_rank(weights: Any, *, scope: str, rank: int) -> None:
    """Raises ValueError for a rank that a layer of the scope can't have; arguments as `init`."""
    if rank < 1:
        raise ValueError(f"rank {rank} is out of range; it has to be at least 1")
    kernels = kernel_shapes(weights)
    narrowest = min(targets(scope, weights), key=lambda path: min(kernels[path][-2:]))
    inputs, outputs = kernels[narrowest][-2:]
    if rank > min(inputs, outputs):
        raise ValueError(
            f"rank {rank} is out of range: {'.'.join(narrowest)} has {inputs} inputs and {outputs} "
            f"outputs; choose a rank (lora.rank) of at most {min(inputs, outputs)}"
        )


def labels(lora: Tree, scope: str) -> Tree:
    """`train` at the adapters of the scope, `frozen` at all others: labels for `optax.partition`.

    The frozen ones belong to `optax.set_to_zero`; `optax.masked` would pass their gradients on as
    updates.

    Raises:
      ValueError: an unknown scope.
      AdapterError: the tree holds no adapter of the scope: nothing would be trained.
    """
    wanted = set(_modules(scope))
    found = dict(walk(lora))
    if not wanted & set(found):
        raise AdapterError(
            f"no adapter of scope {scope!r} among {names(list(found)) or 'none'}; choose the scope "
            "the LoRA was made with"
        )
    tree = {
        path: dict.fromkeys(adapter, "train" if path in wanted else "frozen")
        for path, adapter in found.items()
    }
    return traverse_util.unflatten_dict(tree)


def scaled(lora: Tree, strength: jax.Array | float) -> Tree:
    """Adapters whose product A B is `strength` times what it was: alpha / rank, a slider, or both.

    Only B changes, in its own dtype; A's arrays are shared.

    Raises:
      ValueError: a strength of NaN or Inf; one that is traced isn't looked at.
    """
    check_strength(strength)
    tree = {
        path: {"A": adapter["A"], "B": (adapter["B"] * strength).astype(adapter["B"].dtype)}
        for path, adapter in walk(lora)
    }
    return traverse_util.unflatten_dict(tree)


def check_strength(strength: jax.Array | float) -> None:
    """Raises ValueError for a strength that is NaN or Inf in float32; not for a traced one."""
    if not isinstance(strength, Tracer) and not abs(float(strength)) <= _LARGEST:
        raise ValueError(f"strength {strength} is NaN or Inf in float32; 1 is the edit as made")


def delta(adapter: Tree) -> jax.Array:
    """A B of one adapter, float32 [(L,) in, out]: what it adds to its kernel."""
    A, B = (jnp.asarray(adapter[name], jnp.float32) for name in ("A", "B"))
    return jnp.matmul(A, B, precision="highest")


def merge(weights: Tree, lora: Tree, strength: float = 1.0) -> Tree:
    """New weights with the adapters added to their kernels, W + strength A B, as `add` does.

    Raises:
      AdapterError: the adapters don't fit the model.
      ValueError: a strength of NaN or Inf.
    """
    check_strength(strength)
    check(lora, weights)
    added = {path: strength * delta(adapter) for path, adapter in walk(lora)}
    return add(weights, added)


def add(weights: Tree, deltas: dict[Module, jax.Array]) -> Tree:
    """New weights with a delta added to each named layer's kernel; other leaves are shared.

    Added in float32, rounded to the kernel's dtype once, and placed where the kernel lies. Blocks
    may be stacked or unrolled; those beyond a delta's last one are left as they are.
    """
    flat: dict[Module, Any] = dict(traverse_util.flatten_dict(weights))  # pyright: ignore
    unrolled: dict[str, dict[Module, jax.Array]] = {}
    for path, delta_IO in deltas.items():
        if isinstance(weights[path[0]], tuple):
            unrolled.setdefault(path[0], {})[path[1:]] = delta_IO
            continue
        kernel = flat[*path, "kernel"]
        if kernel.ndim == 3:
            delta_IO = padded(delta_IO, len(kernel))
        changed = (kernel.astype(jnp.float32) + delta_IO).astype(kernel.dtype)
        flat[*path, "kernel"] = _placed(changed, kernel)
        # Gradients pass through the transpose that lies beside an unrolled block's kernel.
        if (beside := flat.get((*path, "kernel_T"))) is not None:
            flat[*path, "kernel_T"] = _placed(changed.T, beside)
    for name, found in unrolled.items():
        flat[(name,)] = tuple(
            add(block, {path: delta[index] for path, delta in found.items() if index < len(delta)})
            for index, block in enumerate(weights[name])
        )
    return traverse_util.unflatten_dict(flat)


def concatenate(loras: list[Tree]) -> Tree:
    """One LoRA that does what several do together: A side by side, B on top of each other.

    A B of the result is exactly the sum of the A_i B_i; its rank in a layer is the sum of the
    ranks there. A layer that only some of them adapt keeps their rank; blocks that one hasn't get
    zeros.

    Raises:
      ValueError: no adapters at all.
      AdapterError: two that don't fit the same layer.
    """
    parts: dict[Module, list[Tree]] = {}
    for lora in loras:
        for path, adapter in walk(lora):
            parts.setdefault(path, []).append(adapter)
    if not parts:
        raise ValueError("there is no LoRA to combine; give at least one")
    tree = {}
    for path, adapters in parts.items():
        # A file may stop before the last block.
        if all(a["A"].ndim == 3 for a in adapters):
            depth = max(len(a["A"]) for a in adapters)
            adapters = [padded(a, depth) for a in adapters]
        outer = {(*a["A"].shape[:-1], a["B"].shape[-1]) for a in adapters}
        if len(outer) > 1:
            raise AdapterError(
                f"adapters of {'.'.join(path)} are for kernels of {sorted(outer)}; combine LoRAs "
                "of the same model"
            )
        tree[path] = {
            "A": jnp.concatenate([a["A"] for a in adapters], axis=-1),
            "B": jnp.concatenate([a["B"] for a in adapters], axis=-2),
        }
    return traverse_util.unflatten_dict(tree)


def _placed(array: Any, like: Any) -> Any:
    """An array where another one lies, if that lies on devices already."""
    on_devices = isinstance(like, jax.Array) and not isinstance(like, Tracer)
    return jax.device_put(array, like.sharding) if on_devices else array


def _modules(scope: str) -> list[Module]:
    modules: set[Module] = set()
    for group in scope.split("+"):
        if group not in GROUPS:
            near = difflib.get_close_matches(group, GROUPS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"lora scope {scope!r}: {group!r} is unknown; use one of {sorted(GROUPS)}, or "
                f"several joined by '+'{hint}"
            )
        modules |= set(GROUPS[group])
    return sorted(modules)
