"""Adapter trees: which layers they are on, and the check that every one of them has its layer.

A tree has the paths of the model's weights, with {A: [(L,) in, r], B: [(L,) r, out]} in the place
of a layer's kernel. The model looks adapters up by name, so one that matches no layer would do
nothing, silently: hence `check`. A stack may end before the model's does: a LoRA file doesn't say
how deep the model is. The blocks that it lacks are not adapted, see `padded`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

Module = tuple[str, ...]


class AdapterError(ValueError):
    """Adapters that don't fit the model. One line: which, why, and the way out."""


def walk(tree: Any, prefix: Module = ()) -> Iterator[tuple[Module, Any]]:
    """Every layer of a tree that holds a kernel, a delta of one, or an adapter for one."""
    if not isinstance(tree, dict):
        return
    if "kernel" in tree or "A" in tree or "B" in tree:
        yield prefix, tree
        return
    for name in sorted(tree):
        yield from walk(tree[name], (*prefix, name))


def count(lora: Any) -> int:
    """Number of adapted layers, blocks of a stack counted one by one."""
    return sum(_blocks(adapter["A"].shape) for _, adapter in walk(lora))


def padded(stacked: Any, blocks: int) -> Any:
    """A tree of stacked adapters or deltas with zeros for the blocks that it lacks.

    Leaves of that many blocks stay as they are.
    """

    def pad(leaf: Any) -> Any:
        lacking = blocks - len(leaf)
        return jnp.pad(leaf, ((0, lacking), (0, 0), (0, 0))) if lacking else leaf

    return jax.tree.map(pad, stacked)


def check(lora: Any, weights: Any) -> int:
    """Compares adapters with the model they are for; shapes only, so it costs nothing in a trace.

    Args:
      lora: adapter tree.
      weights: the model's weights, or their ShapeDtypeStructs; blocks stacked or unrolled.
    Returns:
      `count(lora)`: every one of them has its layer.
    Raises:
      AdapterError: no adapters at all, or one for a layer or a block that the model lacks, or of
        another shape. The message names the layers.
    """
    layers = kernel_shapes(weights)
    found = dict(walk(lora))
    if not found:
        raise AdapterError("the LoRA is empty: it would change nothing; check where it came from")
    unknown = [path for path in found if path not in layers]
    if unknown:
        rest = len(found) - len(unknown)
        some = f"only {rest} of {len(found)} layers" if rest else "nothing"
        raise AdapterError(
            f"the LoRA matches {some} of this model; without a layer: {names(unknown)}: use it "
            "with the model it was made for"
        )
    for path, adapter in found.items():
        _check_shapes(path, adapter, layers[path])
    return count(lora)


def names(paths: list[Module]) -> str:
    """Dotted names for a message, the first few."""
    shown = ", ".join(".".join(path) for path in paths[:4])
    return shown if len(paths) <= 4 else f"{shown} and {len(paths) - 4} more"


def kernel_shapes(weights: Any) -> dict[Module, tuple[int, ...]]:
    """Every kernel's shape, of unrolled blocks as if they were stacked."""
    shapes = {path: layer["kernel"].shape for path, layer in walk(weights) if "kernel" in layer}
    for name, blocks in weights.items():
        if isinstance(blocks, tuple):
            for path, shape in kernel_shapes(blocks[0]).items():
                shapes[name, *path] = len(blocks), *shape
    return shapes


def _check_shapes(path: Module, adapter: Any, kernel: tuple[int, ...]) -> None:
    name = ".".join(path)
    if set(adapter) != {"A", "B"}:
        raise AdapterError(f"adapter of {name} holds {sorted(adapter)}; it has to hold A and B")
    a, b = tuple(adapter["A"].shape), tuple(adapter["B"].shape)
    if len(a) == len(b) == len(kernel) == 3 and a[0] == b[0]:
        check_blocks(name, a[0], kernel[0])
        kernel = (a[0], *kernel[1:])
    if (*a[:-1], b[-1]) != tuple(kernel) or (*b[:-2], b[-2]) != (*a[:-2], a[-1]):
        raise AdapterError(
            f"adapter of {name} has A {list(a)} and B {list(b)}, which don't fit its kernel "
            f"{list(kernel)}; use it with the model it was made for"
        )


def check_blocks(name: str, given: int, blocks: int) -> None:
    """Raises AdapterError where there are more blocks of a layer than the model has."""
    if given > blocks:
        raise AdapterError(
            f"the LoRA has {given} blocks of {name}, the model {blocks}: it lacks block "
            f"{given - 1}, counted from 0; use it with the model it was made for"
        )


def _blocks(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1
