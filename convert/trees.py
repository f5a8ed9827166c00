"""Between a nested dict of arrays and the tensors of a layout, one tensor at a time.

A linear kernel is [in, out] here and [out, in] in files, a convolution's HWIO here and OIHW
there; blocks are stacked here and numbered there. So the outputs are always a file's first axis,
and a part of a fused projection is a range of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from convert import files, kinds
from convert.files import Stored, WeightsError
from convert.layouts import Layout

Path = tuple[str, ...]
Put = Callable[[Path, np.ndarray], Any]
# (path, shape) of a leaf -> the part of it that is wanted here, a slice for each axis.
Wanted = Callable[[Path, tuple[int, ...]], tuple[slice, ...]]
_TO_TREE = {2: (1, 0), 4: (2, 3, 1, 0)}
_TO_FILE = {2: (1, 0), 4: (3, 2, 0, 1)}
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Piece:
    """What one block's leaf is made of: row ranges of one tensor, joined in this order."""

    name: str
    rows: tuple[tuple[int, int], ...]


def plan(template: Any, layout: Layout) -> tuple[dict[Path, list[Piece]], dict[str, tuple]]:
    """Works out which tensors a tree is made of.

    Args:
      template: nested dict whose leaves have a shape.
      layout: name table of the files.
    Returns:
      {path in the tree: one piece per block, or just one}, {tensor's name: its shape}.
    Raises:
      ValueError: a module or leaf that the layout has no name for.
    """
    flat = _flatten(template)
    pieces: dict[Path, list[Piece]] = {}
    shapes: dict[str, tuple] = {}
    for path, leaf in flat.items():
        module, target = ".".join(path[:-1]), _target(layout, path)
        shape = _file_shape(path, leaf.shape, target)
        before, total = 0, shape[0]
        if target in layout.fused:
            members = layout.fused[target]
            sizes = [_rows(flat, member, path[-1], target) for member in members]
            before, total = sum(sizes[: members.index(module)]), sum(sizes)
        rows = ((before, before + shape[0]),)
        if target in layout.swapped:
            half = shape[0] // 2
            rows = ((half, 2 * half), (0, half))
        count = leaf.shape[0] if "{}" in target else 1
        name = f"{target}.{layout.leaves[path[-1]]}"
        pieces[path] = [Piece(name.format(index), rows) for index in range(count)]
        shapes.update({piece.name: (total, *shape[1:]) for piece in pieces[path]})
    return pieces, shapes


def load(
    template: Any,
    stored: Mapping[str, Stored],
    layout: Layout,
    *,
    where: str,
    dtype: Any = None,
    put: Put | None = None,
    wanted: Wanted | None = None,
) -> Any:
    """Fills a tree from files, reading one tensor at a time.

    Args:
      template: nested dict of ShapeDtypeStructs.
      stored: tensors that the files hold.
      layout: how they are named.
      where: the files, for messages.
      dtype: dtype of the result; None takes the template's.
      put: (path, host array) -> device array, called once a leaf is complete: the place to shard.
        None puts the leaf on the default device.
      wanted: (path, shape) -> slices of the leaf that `put` is to get; of the others no row of a
        file is read. None wants all of every leaf.
    Returns:
      The tree. Host memory beyond it: the leaf being filled and one tensor. On the CPU backend
      the leaf becomes the result without a copy.
    Raises:
      WeightsError: a missing, unexpected or wrongly shaped tensor, a dtype that isn't floating, NaN
        or Inf.
    """
    pieces, shapes = plan(template, layout)
    check(stored, shapes, where)
    put = put or (lambda path, array: jax.device_put(array))
    flat = {}
    for path, leaf in _flatten(template).items():
        stacked = "{}" in _target(layout, path)
        shape = tuple(leaf.shape)
        ranges = _ranges(wanted(path, shape) if wanted else (), shape)
        filled = _empty(
            tuple(stop - start for start, stop in ranges), leaf.dtype if dtype is None else dtype
        )
        blocks = pieces[path][slice(*ranges[0])] if stacked else pieces[path]
        rows, *columns = _turn_ranges(path, ranges[1:] if stacked else ranges)
        for out, piece in zip(filled if stacked else [filled], blocks, strict=True):
            place = stored[piece.name]
            parts = [
                files.read_finite(piece.name, place, each) for each in _within(piece.rows, *rows)
            ]
            tensor = parts[0] if len(parts) == 1 else np.concatenate(parts)
            tensor = tensor[:, *(slice(*each) for each in columns)]
            np.copyto(out, _turn(path, tensor, _TO_TREE), casting="unsafe")
        # One leaf on its way at a time: an accelerator's copy is otherwise still pending when
        # the next leaf is allocated.
        flat[path] = jax.block_until_ready(put(path, filled))
    return traverse_util.unflatten_dict(flat)


def check(stored: Mapping[str, Stored], shapes: Mapping[str, tuple], where: str) -> None:
    """Compares what files hold with what is expected.

    Raises:
      WeightsError: a missing, unexpected or wrongly shaped tensor, or a dtype that isn't floating.
    """
    other = kinds.of_tensors(stored, {place.code for place in stored.values()})
    if other is not None:
        raise WeightsError(f"{where} {other}")
    missing = sorted(set(shapes) - set(stored))
    if missing:
        raise WeightsError(
            f"missing tensor {_first(missing)} in {where}; config.json describes a model with it: "
            "check that both belong together"
        )
    extra = sorted(set(stored) - set(shapes))
    if extra:
        raise WeightsError(
            f"unexpected tensor {_first(extra)} in {where}; config.json describes a model "
            "without it: check that both belong together"
        )
    for name, place in stored.items():
        if place.shape != shapes[name]:
            raise WeightsError(
                f"tensor {name!r} has shape {list(place.shape)} in {where}, config.json asks for "
                f"{list(shapes[name])}: check that both belong together"
            )
        if place.code not in ("F64", "F32", "F16", "BF16"):
            raise WeightsError(
                f"tensor {name!r} is stored as {place.code} in {where}; use weights in float32, "
                "bfloat16 or float16"
            )


def tensors(
    tree: Any, layout: Layout, dtype: Any
) -> tuple[dict[str, jax.ShapeDtypeStruct], Callable[[str], np.ndarray]]:
    """The inverse of `load`: what to write, and a function that makes each tensor by name.

    Only for layouts without fused or swapped tensors.
    """
    pieces, shapes = plan(tree, layout)
    flat = _flatten(tree)
    found = {
        piece.name: (path, index)
        for path, made_of in pieces.items()
        for index, piece in enumerate(made_of)
    }

    def fetch(name: str) -> np.ndarray:
        path, index = found[name]
        leaf = flat[path][index] if "{}" in _target(layout, path) else flat[path]
        return np.ascontiguousarray(_turn(path, np.asarray(leaf), _TO_FILE)).astype(dtype)

    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}, fetch


def _flatten(tree: Any) -> dict[Path, Any]:
    return traverse_util.flatten_dict(tree)  # pyright: ignore[reportReturnType]


def _target(layout: Layout, path: Path) -> str:
    try:
        target = layout.module(".".join(path[:-1]))
    except KeyError:
        raise ValueError(f"no name in this layout for {'.'.join(path)}") from None
    if path[-1] not in layout.leaves:
        raise ValueError(f"no name in this layout for a leaf like {'.'.join(path)}")
    return target


def _file_shape(path: Path, shape: tuple[int, ...], target: str) -> tuple[int, ...]:
    shape = tuple(shape[1:] if "{}" in target else shape)
    if path[-1] != "kernel":
        return shape
    return tuple(shape[axis] for axis in _TO_FILE[len(shape)])


def _rows(flat: Mapping[Path, Any], member: str, leaf: str, target: str) -> int:
    path = (*member.split("."), leaf)
    return _file_shape(path, flat[path].shape, target)[0]


def _turn(path: Path, array: np.ndarray, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    return array.transpose(axes[array.ndim]) if path[-1] == "kernel" else array


def _ranges(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Start and stop on each axis; axes that the index leaves out are whole."""
    index = (*index, *[slice(None)] * (len(shape) - len(index)))
    return [each.indices(size)[:2] for each, size in zip(index, shape, strict=True)]


def _turn_ranges(path: Path, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of a block's leaf in the order of a file's axes."""
    if path[-1] != "kernel":
        return ranges
    return [ranges[axis] for axis in _TO_FILE[len(ranges)]]


def _within(rows: tuple[tuple[int, int], ...], start: int, stop: int) -> list[tuple[int, int]]:
    """What lies from `start` to `stop` of ranges that are joined in this order."""
    found, before = [], 0
    for first, last in rows:
        low, high = max(start - before, 0), min(stop - before, last - first)
        if low < high:
            found.append((first + low, first + high))
        before += last - first
    return found


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A host array so aligned that JAX's CPU backend adopts it without a copy."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


def _first(names: list[str]) -> str:
    return f"{names[0]!r}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
