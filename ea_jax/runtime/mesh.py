"""One mesh, one table: which mesh axes a logical axis of an array is split over.

Arrays are described by logical axes, `("batch", "sequence", "channels")`, and only `RULES` knows
what a mesh does with them. Shardings are applied where data enters a jitted step and at block
boundaries (`constrain`), nowhere else.

    mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 4})
    with jax.set_mesh(mesh):
        state = jax.device_put(state, sharding(mesh, ()))
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

log = logging.getLogger(__name__)

# data: copies of the model, each with its rows. fsdp: rows too, and the base weights in slices.
# tensor: heads and MLP width; the axis that helps at batch 1.
AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes; None keeps an axis whole.
RULES: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "layers": None,
    "sequence": None,
    "text": None,
    "channels": None,
    "text_width": None,  # of T5, CLIP, and the sinusoids of t
    "model": "fsdp",  # D of a base weight
    "heads": "tensor",  # H, or H * E of a weight
    "mlp": "tensor",
    "rank": None,
    "vocabulary": None,
}


def make_mesh(shape: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `AXES`, from a config's `{"data": 1, "fsdp": 1, "tensor": 8}`.

    Args:
      shape: devices along each axis; an axis left out is 1, and one may be -1: all that are left.
      devices: what to build it from; all of this run's by default. Those that a mesh doesn't
        need stay idle, and the log says so.
    Raises:
      ValueError: an unknown axis, or more devices than there are.
    """
    unknown = [name for name in shape if name not in AXES]
    if unknown:
        raise ValueError(f"mesh axis {unknown[0]!r} is unknown; a mesh has the axes {list(AXES)}")
    devices = list(jax.devices() if devices is None else devices)
    sizes = [shape.get(name, 1) for name in AXES]
    described = dict(zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise ValueError(f"mesh {described} needs sizes of 1 or more, at most one of them -1")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if len(devices) % fixed:
            raise ValueError(
                f"mesh {described} doesn't divide {len(devices)} devices; change its sizes"
            )
        sizes[sizes.index(-1)] = len(devices) // fixed
    needed = math.prod(sizes)
    if needed > len(devices):
        raise ValueError(
            f"mesh {described} needs {needed} devices and {len(devices)} are here; "
            "make it smaller, or -1 along one axis to use what there is"
        )
    if needed < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh {described} uses {needed} of {len(devices)} devices; "
            "with several hosts it has to use all of them"
        )
    if needed < len(devices):
        log.info("mesh %s leaves %d devices idle", described, len(devices) - needed)
    return jax.make_mesh(
        sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed]
    )


def platform(mesh: Mesh) -> str:
    """What a mesh is made of: "cpu", "gpu" or "tpu"; it need not be here."""
    return mesh.devices.flat[0].platform


def program_platform() -> str:
    """Where the program that is being traced will run: "cpu", "gpu" or "tpu".

    On the mesh of `jax.set_mesh`, which need not be of this process's devices; else on JAX's own.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def spec(logical_axes: Sequence[str | None]) -> PartitionSpec:
    """`PartitionSpec` of an array with these logical axes; None for an axis without a name.

    Raises:
      ValueError: an axis isn't in `RULES`.
    """
    unknown = [name for name in logical_axes if name is not None and name not in RULES]
    if unknown:
        raise ValueError(
            f"logical axis {unknown[0]!r} has no rule; use one of {sorted(RULES)} or add one"
        )
    return PartitionSpec(*(None if name is None else RULES[name] for name in logical_axes))


def sharding(
    mesh: Mesh, logical_axes: Sequence[str | None], shape: Sequence[int] | None = None
) -> NamedSharding:
    """Where an array with these logical axes lives; `()` puts a copy on every device.

    Args:
      shape: the array's shape, where it is known: then checked to divide.
    Raises:
      ValueError: an axis without a rule, or of a size that its mesh axes don't divide.
    """
    found = NamedSharding(mesh, spec(logical_axes))
    if shape is not None:
        for name, size, axes in zip(logical_axes, shape, found.spec, strict=True):
            parts = _parts(mesh, axes)
            if size % parts:
                raise ValueError(
                    f"axis {name!r} of size {size} doesn't split over mesh axes {axes}, "
                    f"{parts} devices; use a divisor of {size}"
                )
    return found


def put(array: Any, where: NamedSharding) -> jax.Array:
    """An array that every host holds, on the devices of all of them."""
    if where.is_fully_addressable:
        return jax.device_put(array, where)
    array = np.asarray(array)
    return put_part(array[local_part(where, array.shape)], where, array.shape)


def put_part(part: np.ndarray, where: NamedSharding, shape: Sequence[int]) -> jax.Array:
    """An array of that shape, of which this host holds its `local_part`."""
    if where.is_fully_addressable:
        return jax.device_put(part, where)
    origin = [each.start for each in local_part(where, shape)]

    def shard(index: Any) -> np.ndarray:
        spans = zip(_spans(index, shape), origin, strict=True)
        return part[tuple(slice(start - zero, stop - zero) for (start, stop), zero in spans)]

    return jax.make_array_from_callback(tuple(shape), where, shard)


def local_part(where: NamedSharding, shape: Sequence[int]) -> tuple[slice, ...]:
    """The part of an array that this host's devices hold: the smallest box around their shards."""
    shards = where.addressable_devices_indices_map(tuple(shape)).values()
    by_axis = zip(*(_spans(index, shape) for index in shards), strict=True)
    return tuple(slice(min(a for a, _ in spans), max(b for _, b in spans)) for spans in by_axis)


def batch_parts(mesh: Mesh) -> int:
    """Over how many devices a batch is split: what its number of rows must be a multiple of."""
    return _parts(mesh, RULES["batch"])


def put_rows(mesh: Mesh, batch: Any) -> Any:
    """A batch on the mesh: arrays split by rows where they divide, replicated elsewhere.

    For a single device they stay in host memory: a program fetches them in less time than it takes
    to put them there.

    Args:
      mesh: of the run.
      batch: pytree of arrays in host memory.
    """
    if mesh.size == 1:
        return jax.tree.map(np.asarray, batch)
    parts = batch_parts(mesh)
    rows, replicated = sharding(mesh, ("batch",)), sharding(mesh, ())

    def put_leaf(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        divides = leaf.ndim and leaf.shape[0] % parts == 0
        return put(leaf, rows if divides else replicated)

    return jax.tree.map(put_leaf, batch)


def constrain(x: jax.Array, logical_axes: Sequence[str | None]) -> jax.Array:
    """Fixes an intermediate's sharding inside a jitted step, on the mesh of `jax.set_mesh`.

    Without a mesh, or on one device, it is `x`: one code path for every machine. An axis that
    doesn't divide stays whole; inside a `shard_map` there is nothing to say.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or AxisType.Manual in mesh.axis_types:
        return x
    return jax.lax.with_sharding_constraint(x, divided_spec(mesh, logical_axes, x.shape))


def divided_spec(
    mesh: Mesh | AbstractMesh, logical_axes: Sequence[str | None], shape: Sequence[int]
) -> PartitionSpec:
    """`spec`, with an axis that the mesh doesn't divide left whole."""
    sizes = zip(spec(logical_axes), shape, strict=True)
    return PartitionSpec(
        *(axes if size % _parts(mesh, axes) == 0 else None for axes, size in sizes)
    )


def pad_rows(batch: Any, multiple: int) -> tuple[Any, Any]:
    """Repeats the last row until the batch divides, and says which rows count.

    A copy of a real row keeps every number finite, which zeros would not in a softmax or a norm;
    its weight of zero keeps it out of a loss. See `weighted_mean`.

    Args:
      batch: pytree of arrays in host memory, with the rows first.
      multiple: what the number of rows must divide by; see `batch_parts`.
    Returns:
      The batch, and weight_B: float32, 1 for a real row and 0 for a copy.
    Raises:
      ValueError: the arrays disagree about the number of rows, or there is none.
    """
    counts = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"a batch needs one number of rows, at least 1; its arrays have {counts}")
    rows = counts.pop()
    extra = -rows % multiple
    weight_B = (np.arange(rows + extra) < rows).astype(np.float32)
    if not extra:
        return batch, weight_B
    take = np.minimum(np.arange(rows + extra), rows - 1)
    return jax.tree.map(lambda x: np.asarray(x)[take], batch), weight_B


def weighted_mean(x_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    """Mean over the rows that count, as if the padded ones weren't there."""
    return jnp.sum(x_B * weight_B) / jnp.sum(weight_B)


def _spans(index: Any, shape: Sequence[int]) -> list[tuple[int, int]]:
    """Start and stop of a shard on each axis."""
    return [each.indices(size)[:2] for each, size in zip(index, shape, strict=True)]


def _parts(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    if axes is None:
        return 1
    names = (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[name] for name in names)
