"""A short name for exactly these weights, computed where they lie.

A checkpoint and an exported adapter carry the fingerprint of the base they were made on. It is
made of integer sums, so it is the same on every device and under every sharding, and 12 billion
parameters never travel to the host.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ea_jax.runtime.hosts import on_host

_BASE = np.dtype(jnp.bfloat16)
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_AT_ONCE = 1 << 20  # words of an array on the host that are scrambled at once
# Of a file this many pieces are read, evenly spaced; one of up to 64 MiB is read whole.
_PIECES, _PIECE_BYTES = 64, 1 << 20


def fingerprint(weights: Any) -> str:
    """Hash of a tree's paths, shapes, dtypes and bits, as 16 hexadecimal digits.

    It tells apart weights that differ by accident: another model, another precision, two tensors
    swapped. It is no signature; someone who wants a collision can make one.

    Raises:
      ValueError: a leaf of another width than 1, 2 or 4 bytes.
    """
    return _combined(_named(weights), leaf_sums)


def base_hash(weights: Any) -> str:
    """Hash of a model, as `fingerprint`, whatever precision it is loaded in.

    Its numbers are rounded to bfloat16 first: the same model in float32 on a CPU and in bfloat16
    on a GPU is one model.

    Args:
      weights: the transformer's, blocks stacked; or, of a model that isn't held in memory at
        once, each leaf's shape and `leaf_sums` of it in bfloat16, as `Sums`.
    """
    return _combined(_named(weights), lambda leaf: leaf_sums(leaf, _BASE), _BASE)


@dataclasses.dataclass(frozen=True)
class Sums:
    """What is left of a leaf in a hash: its shape, and its sums."""

    shape: tuple[int, ...]
    sums: np.ndarray


def leaf_sums(leaf: Any, dtype: Any = None) -> np.ndarray:
    """Two sums mod 2^32 of an array's bits and their places, computed where it lies.

    Args:
      leaf: the array, or its `Sums`.
      dtype: that its numbers are rounded to first; None takes them as they are.
    """
    if isinstance(leaf, Sums):
        return leaf.sums
    if _is_here(leaf):
        return _host_sums(np.asarray(leaf), dtype)
    return on_host(_device_sums(leaf if dtype is None else leaf.astype(dtype)))


def _named(weights: Any) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(weights)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _combined(leaves: Mapping[str, Any], sums: Callable[[Any], np.ndarray], dtype=None) -> str:
    digest = hashlib.sha256()
    for name, leaf in leaves.items():
        kind = leaf.dtype if dtype is None else dtype
        if kind.itemsize not in _WORDS:
            raise ValueError(f"{name} is {kind}; a fingerprint reads 1, 2 and 4 byte numbers")
        digest.update(f"{name} {kind} {tuple(leaf.shape)} {sums(leaf).tolist()}\n".encode())
    return digest.hexdigest()[:16]


def fingerprint_files(paths: Iterable[str | Path]) -> str:
    """Hash of files' names, sizes and contents, as 16 hexadecimal digits; of large ones a sample.

    For what shall be recognised without loading it: text encoders whose output is in a cache.

    Raises:
      OSError: a file can't be read.
    """
    digest = hashlib.sha256()
    for path in sorted(map(Path, paths)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(max(0, size - _PIECE_BYTES) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
                if size <= _PIECE_BYTES:
                    break
    return digest.hexdigest()[:16]


def checksum(*arrays: np.ndarray | jax.Array) -> str:
    """Hash of arrays' bytes on the host, as 32 hexadecimal digits: whether a cache is whole."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_here(leaf: np.ndarray | jax.Array) -> bool:
    """Whether it lies in this host's memory."""
    if isinstance(leaf, np.ndarray):
        return True
    return leaf.is_fully_addressable and {d.platform for d in leaf.devices()} == {"cpu"}


@jax.jit
def _device_sums(x: jax.Array) -> jax.Array:
    """Two sums mod 2^32 of scrambled bits and places.

    Plain sums would miss what adds high powers of two: a tensor doubled, or with its sign turned.
    """
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        stride = math.prod(x.shape[axis + 1 :]) % 2**32
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
    mixed = _scramble(bits ^ _scramble(place + 1))
    return jnp.stack([jnp.sum(mixed), jnp.sum(_scramble(mixed + 1))])


def _host_sums(x: np.ndarray, dtype: Any = None) -> np.ndarray:
    """The same sums; nothing is compiled, and a piece at a time needs little memory."""
    flat = np.ascontiguousarray(x).reshape(-1)
    kind = np.dtype(x.dtype if dtype is None else dtype)
    sums = np.zeros(2, np.uint32)
    for start in range(0, len(flat), _AT_ONCE):
        piece = flat[start : start + _AT_ONCE].astype(kind, copy=False)
        bits = piece.view(_WORDS[kind.itemsize]).astype(np.uint32)
        place = np.arange(len(bits), dtype=np.uint32) + np.uint32(start % 2**32)
        mixed = _scramble(bits ^ _scramble(place + 1))
        sums += np.array([part.sum(dtype=np.uint32) for part in (mixed, _scramble(mixed + 1))])
    return sums


def _scramble(x: Any) -> Any:
    """MurmurHash3's finaliser (Appleby, public domain): each bit in sways all bits out."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)
